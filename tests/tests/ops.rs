//! Every op of the registry: shaders that naga accepts, bindings that agree with the Rust side,
//! gradients that match central differences, a GPU that matches the CPU.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bft_core::device::{Access, Defines, Device, Field, Kernel, KernelPreference, Tier};
use bft_core::ops::{OPS, linear};
use bft_formats::DType;
use bft_tests::ops::{data, difference, difference_of_kernels, gpu_difference, gradient_mismatch, recorded, results};
use naga::back::{hlsl, msl, spv};
use pollster::block_on;

/// Lanes of a workgroup of four subgroups, as most cards have them.
const LANES: u32 = 128;

fn parse(kernel: &Kernel, tier: Tier, defines: Defines) -> naga::Module {
    let source = tier.source(kernel.shader, defines, LANES).unwrap();
    naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{} {tier:?} {defines:?}: {}", kernel.shader, error.emit_to_string(&source)))
}

/// No capability beyond those of its tier: WebGPU's core, which has `unpack2x16float`, for the
/// portable kernels, which must run in a browser.
fn validate(module: &naga::Module, tier: Tier) -> naga::valid::ModuleInfo {
    let flags = naga::valid::ValidationFlags::all();
    use naga::valid::Capabilities as Has;
    let capabilities = Has::SHADER_FLOAT16_IN_FLOAT32
        | match tier {
            Tier::Portable => Has::empty(),
            Tier::Subgroups => Has::SUBGROUP,
            Tier::Matrices => Has::COOPERATIVE_MATRIX,
            Tier::Half => Has::SHADER_FLOAT16,
            Tier::HalfMatrices8 | Tier::HalfMatrices16 => Has::SHADER_FLOAT16 | Has::COOPERATIVE_MATRIX,
        };
    naga::valid::Validator::new(flags, capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(module)
        .unwrap()
}

/// Every kernel of every op under every variant of its shader, in every tier that a call may
/// choose.
fn variants() -> BTreeMap<(String, Tier, Defines), &'static Kernel> {
    let mut found = BTreeMap::new();
    for op in OPS {
        for case in (op.cases)() {
            let recording = recorded(op.name, &case);
            for (choices, defines) in recording.choices() {
                for choice in choices.all() {
                    let name = format!("{}::{}", choice.kernel.shader, choice.kernel.entry);
                    found.insert((name, choice.needs, defines), choice.kernel);
                }
            }
        }
    }
    found
}

#[test]
fn shaders_translate_to_every_backend() {
    for ((_, tier, defines), kernel) in variants() {
        let module = parse(kernel, tier, defines);
        let info = validate(&module, tier);
        spv::write_vec(&module, &info, &spv::Options::default(), None).expect(kernel.shader);
        // Metal has no matrices of 16 × 16, DirectX none at all: no adapter of theirs offers these
        // tiers.
        if tier == Tier::HalfMatrices16 {
            continue;
        }
        let options = msl::Options { lang_version: (2, 3), fake_missing_bindings: true, ..Default::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).expect(kernel.shader);
        if matches!(tier, Tier::Matrices | Tier::HalfMatrices8) {
            continue;
        }
        // DirectX knows no number of workgroups: wgpu hands it over in constants, which an entry
        // point, but no function that it calls, reads in its place.
        let options = hlsl::Options { special_constants_binding: Some(Default::default()), ..Default::default() };
        let entry_point = Some((naga::ShaderStage::Compute, kernel.entry.to_owned()));
        let mut text = String::new();
        let pipeline = hlsl::PipelineOptions { entry_point };
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        writer.write(&module, &info, None).expect(kernel.shader);
        let folds = reads_number_of_workgroups(&module, kernel.entry);
        assert_eq!(text.contains("uint3(_NagaConstants."), folds, "{}::{}", kernel.shader, kernel.entry);
    }
}

fn reads_number_of_workgroups(module: &naga::Module, entry: &str) -> bool {
    let is = |binding: &Option<naga::Binding>| *binding == Some(naga::Binding::BuiltIn(naga::BuiltIn::NumWorkGroups));
    let point = module.entry_points.iter().find(|point| point.name == entry).unwrap();
    point.function.arguments.iter().any(|argument| match &module.types[argument.ty].inner {
        naga::TypeInner::Struct { members, .. } => members.iter().any(|member| is(&member.binding)),
        _ => is(&argument.binding),
    })
}

/// (name, type as Rust writes it, offset) of a field.
type Shape = (String, String, usize);
/// Fields and size of a kernel's parameters.
type Parameters = (Vec<Shape>, usize);
/// Binding and name of a storage global, and whether it is written.
type Storage = (u32, String, bool);

/// Fields and size of a uniform struct.
fn fields(module: &naga::Module, of: naga::Handle<naga::Type>) -> (Vec<Shape>, usize) {
    let naga::TypeInner::Struct { members, span } = &module.types[of].inner else {
        panic!("parameters are no struct");
    };
    let scalar = |scalar: naga::Scalar| match scalar {
        naga::Scalar::U32 => "u32",
        naga::Scalar::F32 => "f32",
        other => panic!("{other:?} among the parameters"),
    };
    let shape = |member: &naga::StructMember| {
        let kind = match module.types[member.ty].inner {
            naga::TypeInner::Scalar(one) => scalar(one).to_owned(),
            naga::TypeInner::Vector { size, scalar: one } => format!("[{}; {}]", scalar(one), size as u8),
            ref other => panic!("{other:?} among the parameters"),
        };
        (member.name.clone().unwrap(), kind, member.offset as usize)
    };
    (members.iter().map(shape).collect(), *span as usize)
}

/// What an entry point uses: its storage globals, and its parameters.
fn reflect(module: &naga::Module, tier: Tier, entry: &str) -> (Vec<Storage>, Parameters) {
    let info = validate(module, tier);
    let index = module.entry_points.iter().position(|point| point.name == entry);
    let uses = info.get_entry_point(index.unwrap_or_else(|| panic!("no entry point {entry}")));
    let (mut storage, mut uniform) = (Vec::new(), Default::default());
    for (_, global) in module.global_variables.iter().filter(|(handle, _)| !uses[*handle].is_empty()) {
        let Some(binding) = &global.binding else {
            continue;
        };
        match global.space {
            naga::AddressSpace::Uniform => uniform = fields(module, global.ty),
            naga::AddressSpace::Storage { access } => {
                let writable = access.contains(naga::StorageAccess::STORE);
                storage.push((binding.binding, global.name.clone().unwrap(), writable));
            }
            _ => {}
        }
    }
    storage.sort();
    (storage, uniform)
}

fn parameters(kernel: &Kernel) -> Parameters {
    let shape = |field: &Field| (field.name.to_owned(), field.kind.to_owned(), field.offset);
    (kernel.params.iter().map(shape).collect(), kernel.params_size)
}

#[test]
fn bindings_and_parameters_equal_the_rust_side() {
    for ((name, tier, defines), kernel) in variants() {
        let what = format!("{name} {tier:?} {defines:?}");
        let (storage, uniform) = reflect(&parse(kernel, tier, defines), tier, kernel.entry);
        assert_eq!(uniform, parameters(kernel), "{what}: fields and bytes of Params");
        let mut expected = Vec::new();
        for (name, access) in kernel.bindings {
            let next = expected.len() as u32 + 1;
            if matches!(access, Access::CpuRead | Access::CpuWrite) {
                continue;
            }
            if *access == Access::Matrix {
                expected.push((next, format!("{name}_quants"), false));
                expected.push((next + 1, format!("{name}_scales"), false));
            } else {
                let writable = matches!(access, Access::Write | Access::ReadWrite);
                expected.push((next, (*name).to_owned(), writable));
            }
        }
        // A plain format has no scales: its shader need not read that binding.
        expected.retain(|binding| storage.contains(binding) || !binding.1.ends_with("_scales"));
        assert_eq!(storage, expected, "{what}: bindings");
    }
}

/// The comparison of parameters sees two fields of one type change places.
#[test]
fn exchanged_fields_of_parameters_are_noticed() {
    let kernel = OPS.iter().find(|op| op.name == "rope").unwrap().kernels[0];
    let source = Tier::Portable.source(kernel.shader, &[], LANES).unwrap();
    let exchanged = source.replace("    tokens: u32,\n    heads: u32,", "    heads: u32,\n    tokens: u32,");
    assert_ne!(source, exchanged);
    let uniform = |text: &str| reflect(&naga::front::wgsl::parse_str(text).unwrap(), Tier::Portable, kernel.entry).1;
    assert_eq!(uniform(&source), parameters(kernel));
    assert_ne!(uniform(&exchanged), parameters(kernel));
}

#[test]
fn gradients_match_central_differences() {
    for op in OPS {
        for case in (op.cases)() {
            if let Some(mismatch) = gradient_mismatch(op.name, &case, 12, 1e-6) {
                panic!("{} with {}: {mismatch}", op.name, case.label);
            }
        }
    }
}

#[test]
fn gpu_matches_cpu() {
    let Some(gpu) = bft_tests::gpu() else { return };
    bft_tests::tell_tiers(&gpu);
    for op in OPS {
        if let Err(problem) = block_on(gpu_difference(op, &gpu)) {
            panic!("{problem}");
        }
    }
}

/// Tiles, borders and sums of the kernels with cooperative matrices, where the matrices themselves
/// are stood in for.
#[test]
fn matrix_kernels_match_cpu_with_a_stand_in_for_matrices() {
    let Some(mut gpu) = bft_tests::gpu() else {
        return;
    };
    bft_tests::matrices::emulate(&mut gpu);
    let tiers = bft_tests::matrices::TIERS.map(KernelPreference::Tier);
    match block_on(difference_of_kernels(&linear::OP, &gpu, &tiers)) {
        Ok(compared) => assert!(compared > 50, "only {compared} comparisons"),
        Err(problem) => panic!("{problem}"),
    }
}

#[test]
fn every_kernel_is_run_by_a_case() {
    for op in OPS {
        let mut run = BTreeSet::new();
        for case in (op.cases)() {
            let recording = recorded(op.name, &case);
            for (choices, variant) in recording.choices() {
                run.extend(choices.all().map(|choice| (choice.kernel.shader, choice.kernel.entry, variant)));
            }
        }
        for kernel in op.kernels {
            for variant in op.variants {
                let found = run.contains(&(kernel.shader, kernel.entry, variant));
                let (op, shader, entry) = (op.name, kernel.shader, kernel.entry);
                // A result of at most 32 columns is narrower than a block of these formats.
                let of_format = |dtype: &DType| variant.contains(&("WEIGHT", dtype.spec().layout.shader));
                let block_len = DType::ALL.iter().find(|dtype| of_format(dtype)).map_or(1, |dtype| dtype.block_len());
                if shader == "linear_nn_narrow" && block_len > 32 {
                    assert!(!found, "{variant:?} is that narrow after all");
                    continue;
                }
                assert!(found, "no case of {op} runs {shader}::{entry} {variant:?}");
            }
        }
    }
}

/// The comparison sees one wrong element, and one that was never written.
#[test]
fn comparison_notices_one_broken_element() {
    for op in OPS {
        let case = &(op.cases)()[0];
        let good = block_on(results(&Device::cpu(), case, &data(op.name, case)));
        assert_eq!(difference(&good, &good, 1e-5), None);
        for tensor in 0..good.len() {
            let last = good[tensor].1.len() - 1;
            for (at, wrong) in [(0, f64::NAN), (last, f64::NAN), (last, good[tensor].1[last] + 1e3)] {
                let mut bad = good.clone();
                bad[tensor].1[at] = wrong;
                assert!(difference(&bad, &good, 1e-5).is_some(), "{wrong} went unnoticed");
            }
        }
    }
}

/// The gradient check sees one element of one gradient set to zero.
#[test]
fn gradient_check_notices_one_broken_element() {
    for op in OPS {
        for mut case in (op.cases)().into_iter().filter(|case| case.backward.is_some()).take(1) {
            let (_, gradient) = case.gradients[0];
            let right = case.backward.take().unwrap();
            case.backward = Some(Box::new(move |recording, tensors| {
                right(recording, tensors);
                recording.clear(&tensors.view(gradient).first(1));
            }));
            let mismatch = gradient_mismatch(op.name, &case, usize::MAX, 1e-6);
            assert!(mismatch.is_some(), "a gradient of {} set to zero went unnoticed", op.name);
        }
    }
}
