//! Element types, under the names torch gives them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

macro_rules! dtypes {
    ($($variant:ident $name:literal $size:literal $doc:literal;)*) => {
        /// Type of one tensor element. Names and layout are torch's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DType { $(#[doc = $doc] $variant,)* }

        impl DType {
            /// Every type, in a fixed order.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// torch's name, `float32` for `torch.float32`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bytes per element.
            pub const fn size(self) -> usize {
                match self { $(DType::$variant => $size,)* }
            }
        }
    };
}

dtypes! {
    F64 "float64" 8 "IEEE binary64.";
    F32 "float32" 4 "IEEE binary32.";
    F16 "float16" 2 "IEEE binary16.";
    BF16 "bfloat16" 2 "Upper half of a binary32.";
    F8E4M3FN "float8_e4m3fn" 1 "8-bit float, finite, 4 exponent bits.";
    F8E4M3FNUZ "float8_e4m3fnuz" 1 "8-bit float, finite, no negative zero, 4 exponent bits.";
    F8E5M2 "float8_e5m2" 1 "8-bit float, 5 exponent bits.";
    F8E5M2FNUZ "float8_e5m2fnuz" 1 "8-bit float, finite, no negative zero, 5 exponent bits.";
    F8E8M0FNU "float8_e8m0fnu" 1 "8-bit power of two.";
    I64 "int64" 8 "Signed 64-bit integer.";
    I32 "int32" 4 "Signed 32-bit integer.";
    I16 "int16" 2 "Signed 16-bit integer.";
    I8 "int8" 1 "Signed 8-bit integer.";
    U64 "uint64" 8 "Unsigned 64-bit integer.";
    U32 "uint32" 4 "Unsigned 32-bit integer.";
    U16 "uint16" 2 "Unsigned 16-bit integer.";
    U8 "uint8" 1 "Unsigned 8-bit integer.";
    Bool "bool" 1 "Boolean, one byte.";
    C32 "complex32" 4 "Two binary16: real, imaginary.";
    C64 "complex64" 8 "Two binary32: real, imaginary.";
    C128 "complex128" 16 "Two binary64: real, imaginary.";
}

impl DType {
    /// Bytes of the unit that byte order applies to: half an element for complex types.
    pub const fn swap_unit(self) -> usize {
        match self {
            DType::C32 => 2,
            DType::C64 => 4,
            DType::C128 => 8,
            other => other.size(),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "use dtype", name).because("not a torch dtype name"))
    }
}
