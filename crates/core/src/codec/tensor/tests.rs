use proptest::prelude::*;

use super::*;

const ITEMS: [usize; 5] = [1, 2, 4, 8, 16];

fn coded(bytes: &[u8], item: usize) -> Vec<Vec<u8>> {
    let plan = Plan::of(bytes, item).expect("a plan");
    let code = |block: &[u8]| {
        let mut out = Vec::new();
        encode_block(block, item, &plan, &mut out).expect("coded");
        out
    };
    bytes.chunks(block_bytes(item)).map(code).collect()
}

fn decoded(blocks: &[Vec<u8>], item: usize, len: usize) -> Vec<u8> {
    let mut out = vec![7; len];
    for (block, out) in blocks.iter().zip(out.chunks_mut(block_bytes(item))) {
        decode_block(block, item, out).expect("decoded");
    }
    out
}

/// Bytes of many kinds: constant, noise, small numbers, runs, sparse.
fn bytes(kind: u8, seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len)
        .map(|at| match kind {
            0 => seed as u8,
            1 => next() as u8,
            2 => (next() % 7) as u8,
            3 => (at / 1000) as u8,
            4 => u8::from(next() % 50 == 0) * next() as u8,
            5 => {
                if at % 4 < 2 {
                    0
                } else {
                    next() as u8 & 0x3f
                }
            }
            _ => (at % 251) as u8,
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_decoded_is_what_was_coded(
        item in prop::sample::select(&ITEMS[..]), kind in 0..7_u8, seed: u64, elements in 0..200_000_usize,
    ) {
        let bytes = bytes(kind, seed, elements.min(400_000 / item) * item);
        let blocks = coded(&bytes, item);
        prop_assert!(decoded(&blocks, item, bytes.len()) == bytes);
        prop_assert!(blocks.iter().map(Vec::len).sum::<usize>() <= bytes.len() + blocks.len());
    }

    #[test]
    fn what_is_no_block_is_an_error_or_at_least_harmless(
        item in prop::sample::select(&ITEMS[..]), noise in prop::collection::vec(any::<u8>(), 0..300), elements in 0..100_usize,
    ) {
        let mut out = vec![0; elements * item];
        let _ = decode_block(&noise, item, &mut out);
    }
}

#[test]
fn a_block_that_was_cut_off_is_an_error() {
    for (item, kind) in ITEMS.into_iter().flat_map(|item| (0..7).map(move |kind| (item, kind))) {
        let bytes = bytes(kind, 99, 64 * item);
        let block = coded(&bytes, item).remove(0);
        for len in 0..block.len() {
            let mut out = vec![0; bytes.len()];
            assert!(
                decode_block(&block[..len], item, &mut out).is_err(),
                "{len} of {} bytes, kind {kind}",
                block.len()
            );
        }
        let mut longer = block.clone();
        longer.push(0);
        assert!(decode_block(&longer, item, &mut vec![0; bytes.len()]).is_err());
        // What is all constants is so at any length.
        let is_constant = block.len() == 1 + 2 * item;
        assert!(is_constant || decode_block(&block, item, &mut vec![0; bytes.len() + item]).is_err());
    }
}

#[test]
fn every_kind_of_data_gains_what_its_bytes_allow_for() {
    let noise = bytes(1, 5, 1 << 20);
    let short_mantissas: Vec<u8> = noise.chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1] & 7]).collect();
    let sparse: Vec<u8> =
        (0..1 << 18).flat_map(|at| if noise[at] < 20 { [noise[at], 1, 2, noise[at + 1]] } else { [0; 4] }).collect();
    let numbers: Vec<u8> = (0..1_u64 << 17).flat_map(|at| (at % 300).to_le_bytes()).collect();
    for (name, bytes, item, least) in [
        ("noise", &noise, 4, 0.999),
        ("short mantissas", &short_mantissas, 4, 2.8),
        ("sparse", &sparse, 4, 15.0),
        ("numbers", &numbers, 8, 50.0),
    ] {
        let ratio = bytes.len() as f64 / coded(bytes, item).iter().map(Vec::len).sum::<usize>() as f64;
        assert!(ratio > least, "{name}: {ratio}");
    }
}

/// As one was written once: files of it stay readable.
const SPARSE_BLOCK: &[u8] = b"\x03\x03\0\0\0\x0e\0\0\0(\xb5/\xfd\x20\x05)\0\0\x20\0\x04\x80\0\x0e\0\0\0(\xb5/\xfd\x20\x05)\0\0\x08\x02A\0\x08\0\x05\x07\x12\x07\x1f\x07";

#[test]
fn blocks_that_are_mostly_zero_take_what_their_flags_and_other_elements_do() {
    let noise = bytes(1, 9, 1 << 20);
    // Strewn, and in rows as padding is.
    let strewn: Vec<u8> = noise
        .chunks_exact(4)
        .flat_map(|four| if four[0] < 26 { [four[1], four[2], four[3], 1] } else { [0; 4] })
        .collect();
    let (flags, left) = (0.474 / 8.0, 26.0 / 256.0 * 3.0);
    let blocks = coded(&strewn, 4);
    assert!(blocks.iter().all(|block| block[0] == 3), "laid out as sparse");
    let took = blocks.iter().map(Vec::len).sum::<usize>() as f64 / f64::from(1 << 18);
    assert!(took < 1.03 * (flags + left), "{took} bytes per element instead of {}", flags + left);
    assert!(decoded(&blocks, 4, strewn.len()) == strewn);

    // As masks leave it that were multiplied with: zeros of either sign.
    let masked: Vec<u8> = strewn
        .chunks_exact(4)
        .zip(&noise)
        .flat_map(
            |(four, &noise)| {
                if four == [0; 4] { [0, 0, 0, noise & 0x80] } else { [four[0], four[1], four[2], four[3]] }
            },
        )
        .collect();
    let blocks = coded(&masked, 4);
    let took = blocks.iter().map(Vec::len).sum::<usize>() as f64 / f64::from(1 << 18);
    let signs = (1.0 - 26.0 / 256.0) / 8.0;
    assert!(took < 1.03 * (flags + left + signs), "{took} bytes per element instead of {}", flags + left + signs);
    assert!(decoded(&blocks, 4, masked.len()) == masked);

    let small: Vec<u8> = (0..40_u16)
        .flat_map(|at| if at % 13 == 5 { [at as u8, 7] } else { [0, if at % 7 == 3 { 0x80 } else { 0 }] })
        .collect();
    let mut now = Vec::new();
    encode_block(&small, 2, &Plan { is_sparse: true, ..Plan::default() }, &mut now).expect("coded");
    let mut out = vec![1; small.len()];
    let read = decode_block(SPARSE_BLOCK, 2, &mut out);
    assert!(read.is_ok() && out == small, "{read:?}; now it is written as {}", now.escape_ascii());
    for bit in 0..SPARSE_BLOCK.len() * 8 {
        let mut flipped = SPARSE_BLOCK.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = decode_block(&flipped, 2, &mut out);
    }
    for len in 0..SPARSE_BLOCK.len() {
        assert!(decode_block(&SPARSE_BLOCK[..len], 2, &mut out).is_err(), "cut at {len}");
    }
    let zeros = vec![0; 800];
    let mut block = Vec::new();
    encode_block(&zeros, 4, &Plan { is_sparse: true, ..Plan::default() }, &mut block).expect("coded");
    assert!(decoded(&[block], 4, 800) == zeros);
}
