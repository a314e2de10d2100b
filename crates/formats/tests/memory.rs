//! Damaged files never make a loader allocate much more than the file holds.
//!
//! One test alone in its process, because the allocator counts for all threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bft_formats::{Adapter, Architecture, Bytes, Model};
use common::{Random, put, tiny_config, tiny_folder, tiny_gguf};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes live at once while `f` runs, beyond those live before.
fn peak(f: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    f();
    PEAK.load(Relaxed) - before
}

/// A whole tiny model costs under 2 MB, the tokenizer's tables most of them.
const LIMIT: usize = 8 << 20;

fn open_gguf(file: Vec<u8>) -> usize {
    peak(|| drop(Model::from_gguf("m.gguf", Bytes::from(file))))
}

#[test]
fn a_lie_costs_no_memory() {
    let good = tiny_gguf("llama").build();
    let header = bft_formats::gguf::Header::parse(&good).unwrap().data_start as usize;
    assert!(open_gguf(good.clone()) < LIMIT);

    // Each eight bytes of the header in turn become a huge number, and a merely large one.
    for at in 0..header - 8 {
        for lie in [u64::MAX, 1 << 40, 1 << 31] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let cost = open_gguf(bad);
            assert!(cost < LIMIT, "{lie} at {at} cost {cost} bytes");
        }
    }

    let folder = tiny_folder(Architecture::Llama);
    let weights = folder["model.safetensors"].to_vec();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let mut random = Random::new(4);
    for _ in 0..2000 {
        let mut bad = weights.clone();
        // Longer numbers, since the header is text.
        let at = 8 + random.below(header - 8);
        bad[at] = b'9';
        let mut files = folder.clone();
        put(&mut files, "model.safetensors", bad.clone());
        let cost = peak(|| drop(Model::from_folder("m", files)));
        assert!(cost < LIMIT, "a 9 at {at} cost {cost} bytes");
        let mut files = BTreeMap::new();
        put(&mut files, "adapter_config.json", r#"{"peft_type": "LORA", "r": 1000000000, "lora_alpha": 1}"#);
        put(&mut files, "adapter_model.safetensors", bad);
        let model = tiny_config(Architecture::Llama);
        let cost = peak(|| drop(Adapter::from_folder("a", files, &model)));
        assert!(cost < LIMIT, "a 9 at {at} cost {cost} bytes in an adapter");
    }
    let mut lie = weights.clone();
    lie[..8].copy_from_slice(&99_000_000u64.to_le_bytes());
    let mut files = folder.clone();
    put(&mut files, "model.safetensors", lie);
    assert!(peak(|| drop(Model::from_folder("m", files))) < LIMIT);
}
