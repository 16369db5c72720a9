//! Planes with AVX2: 32 elements at a time.

#![allow(unsafe_code, clippy::wildcard_imports)] // vector instructions, which are many

use std::arch::x86_64::*;

use super::planes::Plane;

/// Bytes of a vector, which is also how many elements are done at a time.
const LANES: usize = 32;

/// Takes apart as many elements as fill whole vectors; how many those were.
pub(super) fn split(elements: &[u8], planes: &mut [&mut [u8]]) -> usize {
    let item = planes.len();
    let done = elements.len() / item / LANES * LANES;
    if done == 0 || !is_x86_feature_detected!("avx2") || planes.iter().any(|plane| plane.len() < done) {
        return 0;
    }
    // SAFETY: the processor has AVX2, and every plane has room for `done` elements, a multiple of a vector.
    unsafe {
        match planes {
            [a, b] => split2(elements, [a, b], done),
            [a, b, c, d] => split4(elements, [a, b, c, d], done),
            _ => return 0,
        }
    }
    done
}

/// Puts together as many elements as fill whole vectors; how many those were.
pub(super) fn join(planes: &[Plane<'_>], elements: &mut [u8]) -> usize {
    let done = elements.len() / planes.len() / LANES * LANES;
    let is_short = |plane: &Plane<'_>| matches!(plane, Plane::Bytes(bytes) if bytes.len() < done);
    if done == 0 || !is_x86_feature_detected!("avx2") || planes.iter().any(is_short) {
        return 0;
    }
    // SAFETY: the processor has AVX2, and every plane has `done` elements, a multiple of a vector.
    unsafe {
        match planes {
            [a, b] => join2([*a, *b], elements, done),
            [a, b, c, d] => join4([*a, *b, *c, *d], elements, done),
            _ => return 0,
        }
    }
    done
}

/// # Safety
/// `elements` and every plane have `done` elements, a multiple of [`LANES`].
#[target_feature(enable = "avx2")]
unsafe fn split2(elements: &[u8], planes: [&mut [u8]; 2], done: usize) {
    let (from, [low, high]) = (elements.as_ptr(), planes.map(<[u8]>::as_mut_ptr));
    let byte = _mm256_set1_epi16(0xff);
    for at in (0..done).step_by(LANES) {
        // SAFETY: all that is loaded and stored lies before element `done`.
        unsafe {
            let first = _mm256_loadu_si256(from.add(2 * at).cast());
            let second = _mm256_loadu_si256(from.add(2 * at + 32).cast());
            let lows = _mm256_packus_epi16(_mm256_and_si256(first, byte), _mm256_and_si256(second, byte));
            let highs = _mm256_packus_epi16(_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8));
            _mm256_storeu_si256(low.add(at).cast(), _mm256_permute4x64_epi64(lows, 0b11_01_10_00));
            _mm256_storeu_si256(high.add(at).cast(), _mm256_permute4x64_epi64(highs, 0b11_01_10_00));
        }
    }
}

/// # Safety
/// `elements` and every plane have `done` elements, a multiple of [`LANES`].
#[target_feature(enable = "avx2")]
unsafe fn split4(elements: &[u8], planes: [&mut [u8]; 4], done: usize) {
    let (from, to) = (elements.as_ptr(), planes.map(<[u8]>::as_mut_ptr));
    // Within each half: the first bytes of four elements, the second bytes, and so on.
    let half = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let grouped = _mm256_broadcastsi128_si256(half);
    let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for at in (0..done).step_by(LANES) {
        // SAFETY: all that is loaded and stored lies before element `done`.
        unsafe {
            let load = |n: usize| _mm256_shuffle_epi8(_mm256_loadu_si256(from.add(4 * at + 32 * n).cast()), grouped);
            let (v0, v1, v2, v3) = (load(0), load(1), load(2), load(3));
            let (low01, high01) = (_mm256_unpacklo_epi32(v0, v1), _mm256_unpackhi_epi32(v0, v1));
            let (low23, high23) = (_mm256_unpacklo_epi32(v2, v3), _mm256_unpackhi_epi32(v2, v3));
            for (to, plane) in to.iter().zip([
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ]) {
                _mm256_storeu_si256(to.add(at).cast(), _mm256_permutevar8x32_epi32(plane, in_order));
            }
        }
    }
}

/// Loads a vector of a plane, or has it already.
#[derive(Clone, Copy)]
struct Loads {
    bytes: *const u8,
    constant: __m256i,
}

impl Loads {
    #[target_feature(enable = "avx2")]
    fn new(plane: Plane<'_>) -> Self {
        match plane {
            Plane::Constant(byte) => Self { bytes: std::ptr::null(), constant: _mm256_set1_epi8(byte.cast_signed()) },
            Plane::Bytes(bytes) => Self { bytes: bytes.as_ptr(), constant: _mm256_setzero_si256() },
        }
    }

    /// # Safety
    /// A plane that has bytes has [`LANES`] of them from `at` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn at(self, at: usize) -> __m256i {
        if self.bytes.is_null() {
            return self.constant;
        }
        // SAFETY: the plane has a vector of bytes from there on.
        unsafe { _mm256_loadu_si256(self.bytes.add(at).cast()) }
    }
}

/// # Safety
/// `elements` and every plane that has bytes have `done` elements, a multiple of [`LANES`].
#[target_feature(enable = "avx2")]
unsafe fn join2(planes: [Plane<'_>; 2], elements: &mut [u8], done: usize) {
    let (to, [low, high]) = (elements.as_mut_ptr(), planes.map(|plane| Loads::new(plane)));
    for at in (0..done).step_by(LANES) {
        // SAFETY: all that is loaded and stored lies before element `done`.
        unsafe {
            let (lows, highs) = (low.at(at), high.at(at));
            let (near, far) = (_mm256_unpacklo_epi8(lows, highs), _mm256_unpackhi_epi8(lows, highs));
            _mm256_storeu_si256(to.add(2 * at).cast(), _mm256_permute2x128_si256(near, far, 0x20));
            _mm256_storeu_si256(to.add(2 * at + 32).cast(), _mm256_permute2x128_si256(near, far, 0x31));
        }
    }
}

/// # Safety
/// `elements` and every plane that has bytes have `done` elements, a multiple of [`LANES`].
#[target_feature(enable = "avx2")]
unsafe fn join4(planes: [Plane<'_>; 4], elements: &mut [u8], done: usize) {
    let (to, [a, b, c, d]) = (elements.as_mut_ptr(), planes.map(|plane| Loads::new(plane)));
    for at in (0..done).step_by(LANES) {
        // SAFETY: all that is loaded and stored lies before element `done`.
        unsafe {
            let (a, b, c, d) = (a.at(at), b.at(at), c.at(at), d.at(at));
            let (near_ab, far_ab) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let (near_cd, far_cd) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
            let (v0, v1) = (_mm256_unpacklo_epi16(near_ab, near_cd), _mm256_unpackhi_epi16(near_ab, near_cd));
            let (v2, v3) = (_mm256_unpacklo_epi16(far_ab, far_cd), _mm256_unpackhi_epi16(far_ab, far_cd));
            let to = to.add(4 * at);
            _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256(v0, v1, 0x20));
            _mm256_storeu_si256(to.add(32).cast(), _mm256_permute2x128_si256(v2, v3, 0x20));
            _mm256_storeu_si256(to.add(64).cast(), _mm256_permute2x128_si256(v0, v1, 0x31));
            _mm256_storeu_si256(to.add(96).cast(), _mm256_permute2x128_si256(v2, v3, 0x31));
        }
    }
}
