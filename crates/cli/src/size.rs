//! Sizes for people.

/// `1.5 MB`: three digits at most, decimal units.
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KB", "MB", "GB", "TB"] {
        if value < 999.5 {
            let digits = usize::from(unit != "B" && value < 99.95);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0} PB")
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_three_digits_at_most() {
        let shown: Vec<_> = [0, 999, 1000, 99_940, 99_950, 6_815_744, 999_499_999, 999_500_000, 5_000_000_000_000_000]
            .map(super::human)
            .into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 KB", "99.9 KB", "100 KB", "6.8 MB", "999 MB", "1.0 GB", "5 PB"]);
    }
}
