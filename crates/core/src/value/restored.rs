//! Latents in the layout that models take.
//!
//! Older preprocessing kept a video's latents patchified: a dict whose `latents` are `[seq, C]`, one row per position, frames before
//! rows before columns, with `num_frames`, `height` and `width` beside them. What models take is `[C, F, H, W]`: the same elements
//! in another order, so that it is a view, and nothing is copied.

use super::{Dict, Element, Tensor, Value};
use crate::error::{Error, ErrorKind, Result};

/// The value with its patchified latents as `[C, F, H, W]`; `None` where it has none.
///
/// # Errors
/// `Corrupt` when there are not as many rows as frames, height and width make positions.
pub fn restored(value: &Value) -> Result<Option<Value>> {
    let Value::Dict(dict) = value else { return Ok(None) };
    let Some(Value::Tensor(latents)) = dict.get("latents") else { return Ok(None) };
    let &[rows, channels] = latents.shape() else { return Ok(None) };
    let size = |name| dict.get(name).and_then(whole);
    let (Some(frames), Some(height), Some(width)) = (size("num_frames"), size("height"), size("width")) else {
        return Ok(None);
    };
    let plane = height.checked_mul(width);
    if plane.and_then(|plane| plane.checked_mul(frames)) != Some(rows) {
        return Err(Error::new(ErrorKind::Corrupt, "restore", "patchified latents").because(format_args!(
            "there are {rows} rows of {channels} for {frames} frames of {height} x {width} positions"
        )));
    }
    let (row, channel) = (latents.strides()[0], latents.strides()[1]);
    let strides = [channel, height * width * row, width * row, row];
    let latents = latents.viewed(&[channels, frames, height, width], &strides)?;
    let mut items = dict.items.clone();
    // The last one is the one that counts, where a key repeats.
    if let Some((_, old)) =
        items.iter_mut().rev().find(|(name, _)| matches!(name, Value::Str(name) if name == "latents"))
    {
        *old = Value::Tensor(latents);
    }
    Ok(Some(Value::Dict(Dict { items, ordered: dict.ordered })))
}

/// A whole number that is not negative, also one in a tensor of one element.
fn whole(value: &Value) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        Value::Tensor(tensor) if tensor.numel() == 1 => only(tensor),
        _ => None,
    }
}

fn only(tensor: &Tensor) -> Option<usize> {
    match tensor.first_elements(1)[..] {
        [Element::Int(number)] => usize::try_from(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::DType;

    fn patchified(rows: usize) -> Dict {
        let bytes: Vec<u8> = (0..rows as u8 * 2).collect();
        let latents = Tensor::from_bytes(DType::U8, &[rows, 2], bytes.into()).expect("tensor");
        let height = Tensor::from_bytes(DType::I64, &[], 2_i64.to_le_bytes().to_vec().into()).expect("tensor");
        Dict {
            items: vec![
                (Value::Str("latents".into()), latents.into()),
                (Value::Str("num_frames".into()), Value::Int(3)),
                (Value::Str("height".into()), height.into()),
                (Value::Str("width".into()), Value::Int(1)),
                (Value::Str("fps".into()), Value::Float(24.0)),
            ],
            ordered: false,
        }
    }

    #[test]
    fn rows_of_channels_become_planes_of_them_without_a_copy() {
        let legacy = patchified(6);
        let Some(Value::Dict(restored)) = restored(&legacy.clone().into()).expect("restored") else { panic!("a dict") };
        let (Some(Value::Tensor(old)), Some(Value::Tensor(new))) = (legacy.get("latents"), restored.get("latents"))
        else {
            panic!("latents")
        };
        assert_eq!(new.shape(), [2, 3, 2, 1]);
        assert_eq!(new.storage().0.as_ptr(), old.storage().0.as_ptr());
        let plain = new.to_contiguous().expect("plain");
        assert_eq!(plain.contiguous_bytes(), Some(&[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11][..]));
        assert_eq!(restored.get("fps"), legacy.get("fps"));
    }

    #[test]
    fn what_is_no_patchified_latent_stays_as_it_is() {
        let mut without_width = patchified(6);
        without_width.items.remove(3);
        let mut planes = patchified(6);
        planes.items[0].1 = Tensor::from_bytes(DType::U8, &[2, 3, 2, 1], vec![0; 12].into()).expect("tensor").into();
        for value in [without_width.into(), planes.into(), Value::Int(3), Dict::default().into()] {
            assert!(restored(&value).expect("looked at").is_none());
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_an_error_that_says_so() {
        let error = restored(&patchified(5).into()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.report().contains("5 rows of 2 for 3 frames of 2 x 1"), "{}", error.report());
    }
}
