//! A step allocates nothing once the runner is warm.

mod common;

use kinfer_core::{Batch, KvType, Role, RunnerLimits};
use kinfer_cpu::{Cpu, Isa, Numerics};
use kinfer_load::gguf::Gguf;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_step_allocates_nothing() {
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let gguf = Gguf::open(common::model(file)).unwrap();
        let cpu = Cpu::new(2, Isa::best(), Numerics::Auto).unwrap();
        let model = kinfer_models::load(cpu, &gguf, &mut |_, _| {}).unwrap();
        let limits = RunnerLimits {
            rows: 128,
            outputs: 4,
            logits: true,
            blocks: 16,
            states: 4,
            context: 512,
            kv: KvType::F16.into(),
        };
        let mut runner = model.runner(limits).unwrap();
        let blocks: Vec<u32> = (0..16).collect();
        let ids: Vec<u32> = (300..400).collect();
        let mut step = |start: usize, ids: &[u32], batch: &mut Batch| {
            batch.clear();
            let role = if ids.len() == 1 { Role::Generated } else { Role::Prompt };
            batch.push(role, ids, start, &blocks, true);
            std::hint::black_box(runner.step(batch).unwrap().row(0)[0]);
        };
        let mut batch = Batch::default();
        step(0, &ids, &mut batch);
        step(100, &ids[..1], &mut batch);
        let before = COUNT.load(Ordering::SeqCst);
        for position in 101..200 {
            step(position, &ids[..1], &mut batch);
        }
        step(200, &ids, &mut batch);
        assert_eq!(COUNT.load(Ordering::SeqCst) - before, 0, "allocations in 100 steps of {file}");
    }
}
