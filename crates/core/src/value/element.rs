//! Single elements as numbers, for looking at tensors.

use std::fmt;

use super::{DType, Tensor};

/// One element, widened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Element {
    /// A boolean.
    Bool(bool),
    /// An integer of any width and sign.
    Int(i128),
    /// A floating-point number; every type up to 64 bits fits exactly.
    Float(f64),
    /// Real and imaginary part.
    Complex(f64, f64),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Bool(it) => it.fmt(f),
            Element::Int(it) => it.fmt(f),
            Element::Float(it) => write!(f, "{it:?}"),
            Element::Complex(real, imaginary) => write!(f, "{real:?}{imaginary:+?}j"),
        }
    }
}

impl Tensor {
    /// The first elements in row-major order, at most `count`.
    pub fn first_elements(&self, count: usize) -> Vec<Element> {
        let count = count.min(self.numel());
        let item = self.dtype().size();
        if self.is_packed() {
            return self.to_contiguous().map_or_else(|_| Vec::new(), |plain| plain.first_elements(count));
        }
        let (storage, offset) = self.storage();
        (0..count)
            .map(|number| {
                let start = offset + self.position_of(number) * item;
                element(self.dtype(), &storage[start..start + item])
            })
            .collect()
    }

    /// Where the element of a row-major number lies, in elements from the first.
    fn position_of(&self, mut number: usize) -> usize {
        let mut position = 0;
        for (&size, &stride) in self.shape().iter().zip(self.strides()).rev() {
            position += number % size * stride;
            number /= size;
        }
        position
    }
}

fn element(dtype: DType, bytes: &[u8]) -> Element {
    let mut wide = [0; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u128::from_le_bytes(wide);
    let half = 4 * bytes.len() as u32;
    let unused = 128 - 8 * bytes.len() as u32;
    match dtype {
        DType::Bool => Element::Bool(bits != 0),
        DType::U64 | DType::U32 | DType::U16 | DType::U8 => Element::Int(bits as i128),
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => Element::Int((bits << unused) as i128 >> unused),
        DType::C32 => Element::Complex(float(DType::F16, bits), float(DType::F16, bits >> half)),
        DType::C64 => Element::Complex(float(DType::F32, bits), float(DType::F32, bits >> half)),
        DType::C128 => Element::Complex(float(DType::F64, bits), float(DType::F64, bits >> half)),
        _ => Element::Float(float(dtype, bits)),
    }
}

fn float(dtype: DType, bits: u128) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits as u64),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        // 1 sign, 4 exponent, 3 mantissa bits; only one NaN and no infinity.
        DType::F8E4M3FN if bits & 0x7F == 0x7F => f64::NAN,
        DType::F8E4M3FN => small_float(bits as u8, 3, 7),
        // The same with negative zero as the one NaN.
        DType::F8E4M3FNUZ | DType::F8E5M2FNUZ if bits as u8 == 0x80 => f64::NAN,
        DType::F8E4M3FNUZ => small_float(bits as u8, 3, 8),
        DType::F8E5M2FNUZ => small_float(bits as u8, 2, 16),
        DType::F8E5M2 => half::f16::from_bits((bits as u16) << 8).to_f64(),
        DType::F8E8M0FNU if bits as u8 == 0xFF => f64::NAN,
        _ => 2_f64.powi(i32::from(bits as u8) - 127),
    }
}

/// A float of one byte with `mantissa` bits and this exponent bias, without special values.
fn small_float(byte: u8, mantissa: u32, bias: i32) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let fraction = f64::from(byte & ((1 << mantissa) - 1));
    let exponent = i32::from((byte & 0x7F) >> mantissa);
    let one = f64::from(1_u8 << mantissa);
    let (significand, exponent) = if exponent == 0 { (fraction / one, 1) } else { (1.0 + fraction / one, exponent) };
    sign * significand * 2_f64.powi(exponent - bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(dtype: DType, bytes: &[u8]) -> String {
        let tensor = Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes.to_vec().into()).expect("tensor");
        tensor.first_elements(9).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn reads_elements_of_every_width() {
        assert_eq!(first(DType::I16, &[0xFF, 0xFF, 0, 0x80]), "-1 -32768");
        assert_eq!(first(DType::U16, &[0xFF, 0xFF]), "65535");
        assert_eq!(first(DType::BF16, &[0x80, 0x3F, 0xC0, 0xFF]), "1.0 NaN");
        assert_eq!(first(DType::F8E4M3FN, &[0x38, 0x7E, 0x01, 0xFF]), "1.0 448.0 0.001953125 NaN");
        assert_eq!(first(DType::F8E4M3FNUZ, &[0x40, 0x80]), "1.0 NaN");
        assert_eq!(first(DType::F8E5M2, &[0x3C, 0x7C, 0x7B]), "1.0 inf 57344.0");
        assert_eq!(first(DType::F8E5M2FNUZ, &[0x40, 0x7F]), "1.0 57344.0");
        assert_eq!(first(DType::F8E8M0FNU, &[127, 128, 0xFF]), "1.0 2.0 NaN");
        assert_eq!(first(DType::C64, &[0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0]), "1.0-2.0j");
        assert_eq!(first(DType::Bool, &[0, 1]), "false true");
    }

    #[test]
    fn follows_strides() {
        let bytes: Vec<u8> = (0..6).collect();
        let tensor = Tensor::new(DType::U8, &[3, 2], &[1, 3], bytes.into(), 0).expect("tensor");
        let elements: Vec<_> = tensor.first_elements(4).iter().map(ToString::to_string).collect();
        assert_eq!(elements, ["0", "3", "1", "4"]);
    }
}
