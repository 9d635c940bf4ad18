//! What a forward pass keeps, counted by the allocator, is what `Network::costs` says. In a test binary of its own: what
//! other tests allocate would be counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "an allocator is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use dmd_unet::{ClassUNetConfig, Cost, Network, UNetConfig};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that the graph of a forward pass of two samples holds, and the values that are expected of it.
fn measure<N: Network>(network: &N, side: usize, condition: &N::Condition) -> (f64, f64) {
    let device = Device::flex();
    let channels = 4;
    let x = Tensor::<4>::ones([2, channels, side, side], &device);
    let t = Tensor::<1>::ones([2], &device) * 500.0;
    let call = || network.forward(x.clone(), t.clone(), condition);
    drop(call()); // buffers that a first call makes
    let before = LIVE.load(Ordering::Relaxed);
    let output = call();
    let held = LIVE.load(Ordering::Relaxed) - before;
    drop(output);
    let costs = network.costs([side, side]);
    let of = |value: fn(&Cost) -> usize| costs.all().map(value).sum::<usize>() as f64;
    assert_eq!(of(|cost| cost.parameters), Module::num_params(network) as f64);
    (held as f64, 2.0 * 4.0 * of(|cost| cost.kept))
}

#[test]
fn a_graph_holds_what_the_costs_say() {
    let device = Device::flex();
    let text = UNetConfig {
        cross_attention_dim: 64,
        norm_num_groups: 8,
        ..UNetConfig::attending(32, vec![64, 128, 128], 64)
    };
    let classes = ClassUNetConfig::small(32, 4, vec![64, 128], 10);
    let condition = Tensor::<3>::ones([2, 77, 64], &device);
    let one_hot = Some(Tensor::<2>::ones([2, 10], &device) * 0.1);
    let found = [
        ("text", measure(&text.init(&device).unwrap().train(), 32, &condition)),
        ("text, larger", measure(&text.init(&device).unwrap().train(), 64, &condition)),
        ("classes", measure(&classes.init(&device).unwrap().train(), 32, &one_hot)),
    ];
    for (what, (held, said)) in found {
        println!("{what}: {held} bytes are held, {said} are expected: {:.3}", said / held);
        // Small tensors, the graph's own nodes and what sums of the same tensor share are not counted.
        assert!((said / held - 1.0).abs() < 0.1, "{what}: {held} bytes are held, {said} are expected");
    }
}
