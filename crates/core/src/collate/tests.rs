use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::value::{DType, Tensor};

fn buffers() -> BufferPool {
    BufferPool::new(1 << 20)
}

fn tensor(shape: &[usize], from: u8) -> Value {
    let bytes: Vec<u8> = (0..shape.iter().product::<usize>()).map(|n| (n as u8).wrapping_add(from)).collect();
    Value::Tensor(Tensor::from_bytes(DType::U8, shape, bytes.into()).expect("tensor"))
}

fn batch(rows: &[Value], collation: Collation) -> Result<Vec<(Arc<str>, Value)>> {
    let column = Column { name: "x".into(), rows: rows.iter().collect() };
    collate(&[column], collation, &buffers(), &|row| format!("s{row}"))
}

fn stacked(rows: &[Value]) -> Value {
    batch(rows, Collation::Stack).expect("fits").remove(0).1
}

fn refused(rows: &[Value], collation: Collation) -> String {
    let error = batch(rows, collation).expect_err("does not fit");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

fn numbers(value: &Value) -> (DType, Vec<String>) {
    let Value::Tensor(tensor) = value else { panic!("{value:?}") };
    (tensor.dtype(), tensor.first_elements(100).iter().map(ToString::to_string).collect())
}

#[test]
fn numbers_become_tensors_of_the_widest_kind() {
    let of = |rows: &[Value]| numbers(&stacked(rows));
    assert_eq!(of(&[true.into(), false.into()]), (DType::Bool, vec!["true".into(), "false".into()]));
    assert_eq!(of(&[3.into(), true.into()]), (DType::I64, vec!["3".into(), "1".into()]));
    assert_eq!(of(&[i64::MAX.into(), (-1).into()]), (DType::I64, vec![i64::MAX.to_string(), "-1".into()]));
    assert_eq!(of(&[3.into(), 0.5.into()]), (DType::F64, vec!["3.0".into(), "0.5".into()]));
    assert_eq!(of(&[Value::Complex(1.0, -2.0), 1.into()]).1, ["1.0-2.0j", "1.0+0.0j"]);
}

#[test]
fn containers_are_transposed_and_strings_listed() {
    let sample = |n: i64| {
        Value::Dict(
            [
                ("name", Value::from(format!("s{n}"))),
                ("pair", Value::Tuple(vec![n.into(), tensor(&[2], n as u8)])),
                ("size", Value::Size(vec![n, 7])),
                ("nothing", Value::None),
            ]
            .into_iter()
            .collect(),
        )
    };
    let Value::Dict(batch) = stacked(&[sample(0), sample(1)]) else { panic!("a dict") };
    assert_eq!(batch.get("name"), Some(&Value::List(vec!["s0".into(), "s1".into()])));
    assert_eq!(batch.get("nothing"), Some(&Value::None));
    let Some(Value::List(pair)) = batch.get("pair") else { panic!("a list") };
    assert_eq!(numbers(&pair[0]).1, ["0", "1"]);
    assert_eq!(numbers(&pair[1]).1, ["0", "1", "1", "2"]);
    let Some(Value::List(size)) = batch.get("size") else { panic!("a list") };
    assert_eq!(numbers(&size[1]).1, ["7", "7"]);
}

#[test]
fn what_does_not_fit_names_field_samples_and_the_way_out() {
    let shapes = refused(&[tensor(&[2, 3], 0), tensor(&[2, 4], 0)], Collation::Stack);
    assert_eq!(
        shapes,
        "cannot collate `x`: sample `s1` has uint8[2, 4], sample `s0` uint8[2, 3]; use collate=\"pad\" or \"list\", or put \
         samples of one shape together (buckets)"
    );
    let dims = refused(&[tensor(&[2, 3], 0), tensor(&[2], 0)], Collation::Pad);
    assert!(dims.contains("equally many dimensions"), "{dims}");
    let dict = |name: &str| Value::Dict([(name, 1_i64)].into_iter().collect());
    assert_eq!(
        refused(&[dict("a"), dict("b")], Collation::Stack),
        "cannot collate `x`: sample `s0` has \"a\", sample `s1` has not"
    );
    let inner = |value: Value| Value::Dict([("y", value)].into_iter().collect());
    let kinds = refused(&[inner(1.into()), inner(Value::None)], Collation::Stack);
    assert_eq!(kinds, "cannot collate `x.y`: they are of different kinds: sample `s1` has None, sample `s0` Int(1)");
    let lists = refused(&[Value::List(vec![]), Value::List(vec![Value::None])], Collation::Stack);
    assert!(lists.contains("sample `s1` has 1 entries, sample `s0` 0"), "{lists}");
}

#[test]
fn a_list_keeps_tensors_apart_in_memory_of_their_own() {
    let rows = [tensor(&[2, 3], 0), tensor(&[4], 9)];
    let made = batch(&rows, Collation::List).expect("fits").remove(0).1;
    let Value::List(items) = &made else { panic!("a list") };
    for (item, row) in items.iter().zip(&rows) {
        assert_eq!(item, row);
        let (Value::Tensor(item), Value::Tensor(row)) = (item, row) else { panic!("tensors") };
        assert_ne!(item.storage().0.as_ptr(), row.storage().0.as_ptr());
    }
}

#[test]
fn padding_fills_up_with_zeros_and_says_where_elements_are() {
    let made = batch(&[tensor(&[2, 2], 1), tensor(&[1, 2], 9)], Collation::Pad).expect("fits");
    assert_eq!(&*made[1].0, "x__mask");
    assert_eq!(numbers(&made[0].1).1, ["1", "2", "3", "4", "9", "10", "0", "0"]);
    let Value::Tensor(mask) = &made[1].1 else { panic!("a mask") };
    assert_eq!((mask.dtype(), mask.shape()), (DType::Bool, &[2, 2, 1][..]));
    assert_eq!(numbers(&made[1].1).1, ["true", "true", "true", "false"]);
}

fn arrays() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1..4_usize).prop_flat_map(|dims| prop::collection::vec(prop::collection::vec(0..5_usize, dims), 1..5))
}

proptest! {
    #[test]
    fn padded_elements_are_where_the_mask_says(shapes in arrays(), transposed: bool) {
        let rows: Vec<Value> = shapes.iter().enumerate().map(|(n, shape)| {
            let mut strides: Vec<usize> = vec![1; shape.len()];
            let order: Vec<usize> = if transposed { (0..shape.len()).collect() } else { (0..shape.len()).rev().collect() };
            let mut step = 1;
            for dim in order { strides[dim] = step; step *= shape[dim].max(1); }
            let bytes: Vec<u8> = (0..step).map(|at| (at + n) as u8 + 1).collect();
            Value::Tensor(Tensor::new(DType::U8, shape, &strides, bytes.into(), 0).expect("tensor"))
        }).collect();
        let made = batch(&rows, Collation::Pad).expect("fits");
        let (Value::Tensor(all), Value::Tensor(mask)) = (&made[0].1, &made[1].1) else { panic!("tensors") };
        let (full, part) = (all.shape().to_vec(), mask.shape().to_vec());
        let (elements, mask) = (all.first_elements(all.numel()), mask.first_elements(mask.numel()));
        let mut real = vec![Vec::new(); rows.len()];
        for (number, element) in elements.iter().enumerate() {
            let mut rest = number;
            let mut at: Vec<usize> = full.iter().rev().map(|&size| { let it = rest % size; rest /= size; it }).collect();
            at.reverse();
            let in_mask = at.iter().zip(&part).fold(0, |sum, (&at, &size)| sum * size + if size == 1 { 0 } else { at });
            if mask[in_mask] == crate::value::Element::Bool(true) {
                real[at[0]].push(*element);
            } else {
                prop_assert_eq!(element, &crate::value::Element::Int(0));
            }
        }
        for (row, real) in rows.iter().zip(&real) {
            let Value::Tensor(row) = row else { panic!("a tensor") };
            if full.iter().all(|&size| size > 0) {
                prop_assert_eq!(&row.first_elements(row.numel()), real);
            }
        }
    }

    #[test]
    fn stacking_is_one_after_the_other(rows in 1..6_usize, shape in prop::collection::vec(0..40_usize, 0..3)) {
        let rows: Vec<Value> = (0..rows).map(|n| tensor(&shape, n as u8)).collect();
        let Value::Tensor(made) = stacked(&rows) else { panic!("a tensor") };
        let expected: Vec<u8> = rows.iter().flat_map(|row| {
            let Value::Tensor(row) = row else { panic!("a tensor") };
            row.contiguous_bytes().expect("contiguous").to_vec()
        }).collect();
        prop_assert_eq!(&made.shape()[1..], &shape[..]);
        prop_assert_eq!(made.contiguous_bytes().expect("contiguous"), &expected[..]);
    }
}
