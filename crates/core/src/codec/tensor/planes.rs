//! Elements taken apart into planes and put together again.
//!
//! Plane `p` holds byte `p` of every element. Bytes of one place resemble each other — exponents, or the zeroes below a short
//! mantissa — where neighbouring bytes do not, which is what an entropy coder needs. Elements of two, four and eight bytes use
//! vector instructions where the processor has them; a plain loop does the same elsewhere, and is what those are compared with.

/// Where a plane's bytes come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plane<'a> {
    /// All of them are this one.
    Constant(u8),
    /// One each.
    Bytes(&'a [u8]),
}

impl<'a> Plane<'a> {
    fn part(self, from: usize, count: usize) -> Plane<'a> {
        match self {
            Plane::Constant(byte) => Plane::Constant(byte),
            Plane::Bytes(bytes) => Plane::Bytes(&bytes[from..from + count]),
        }
    }

    fn at(self, element: usize) -> u8 {
        match self {
            Plane::Constant(byte) => byte,
            Plane::Bytes(bytes) => bytes[element],
        }
    }
}

/// Elements of eight bytes are done so many at a time: as twice as many of four, whose planes are elements of two.
const CHUNK: usize = 1024;

/// Takes elements of `planes.len()` bytes apart. Each plane has room for them all.
pub(crate) fn split(elements: &[u8], planes: &mut [&mut [u8]]) {
    if let [p0, p1, p2, p3, p4, p5, p6, p7] = planes {
        let mut halves = [[0; 2 * CHUNK]; 4];
        for (number, chunk) in elements.chunks(8 * CHUNK).enumerate() {
            let (from, count) = (number * CHUNK, chunk.len() / 8);
            let [a, b, c, d] = &mut halves;
            split(chunk, &mut [&mut a[..2 * count], &mut b[..2 * count], &mut c[..2 * count], &mut d[..2 * count]]);
            let to = from..from + count;
            for (half, low, high) in [(&*a, &mut *p0, &mut *p4), (b, p1, p5), (c, p2, p6), (d, p3, p7)] {
                split(&half[..2 * count], &mut [&mut low[to.clone()], &mut high[to.clone()]]);
            }
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    let done = super::x86::split(elements, planes);
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    split_plainly(elements, planes, done);
}

/// The same from element `from` on, without vector instructions.
pub(crate) fn split_plainly(elements: &[u8], planes: &mut [&mut [u8]], from: usize) {
    let item = planes.len();
    for (at, plane) in planes.iter_mut().enumerate() {
        let bytes = elements[from * item..].iter().skip(at).step_by(item);
        plane[from..].iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    }
}

/// Puts elements of `planes.len()` bytes together.
pub(crate) fn join<'a>(planes: &[Plane<'a>], elements: &mut [u8]) {
    if let [p0, p1, p2, p3, p4, p5, p6, p7] = planes {
        let mut halves = [[0; 2 * CHUNK]; 4];
        for (number, chunk) in elements.chunks_mut(8 * CHUNK).enumerate() {
            let (from, count) = (number * CHUNK, chunk.len() / 8);
            let part = |plane: &Plane<'a>| plane.part(from, count);
            for (half, low, high) in [(0, p0, p4), (1, p1, p5), (2, p2, p6), (3, p3, p7)] {
                join(&[part(low), part(high)], &mut halves[half][..2 * count]);
            }
            join(&halves.each_ref().map(|half| Plane::Bytes(&half[..2 * count])), chunk);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    let done = super::x86::join(planes, elements);
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    join_plainly(planes, elements, done);
}

/// The same from element `from` on, without vector instructions.
pub(crate) fn join_plainly(planes: &[Plane<'_>], elements: &mut [u8], from: usize) {
    let item = planes.len();
    for (number, element) in elements.chunks_exact_mut(item).enumerate().skip(from) {
        element.iter_mut().zip(planes).for_each(|(byte, plane)| *byte = plane.at(number));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apart(elements: &[u8], item: usize, with: impl Fn(&[u8], &mut [&mut [u8]])) -> Vec<Vec<u8>> {
        let mut planes = vec![vec![0; elements.len() / item]; item];
        with(elements, &mut planes.iter_mut().map(|plane| &mut plane[..]).collect::<Vec<_>>());
        planes
    }

    proptest! {
        #[test]
        fn vectors_do_what_the_plain_loop_does(
            item in prop::sample::select(vec![1_usize, 2, 4, 8, 16]),
            bytes in prop::collection::vec(any::<u8>(), 0..40_000),
            constants in any::<u16>(),
        ) {
            let elements = &bytes[..bytes.len() / item * item];
            let planes = apart(elements, item, split);
            prop_assert_eq!(&planes, &apart(elements, item, |elements, planes| split_plainly(elements, planes, 0)));
            let planes: Vec<_> = planes.iter().enumerate().map(|(at, bytes)| match constants >> at & 1 {
                0 => Plane::Bytes(bytes),
                _ => Plane::Constant(bytes.first().copied().unwrap_or_default()),
            }).collect();
            let (mut joined, mut plainly) = (vec![0; elements.len()], vec![0; elements.len()]);
            join(&planes, &mut joined);
            join_plainly(&planes, &mut plainly, 0);
            prop_assert_eq!(&joined, &plainly);
            if planes.iter().all(|plane| matches!(plane, Plane::Bytes(_))) {
                prop_assert_eq!(&joined[..], elements);
            }
        }
    }
}
