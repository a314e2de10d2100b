//! Scratch harness (not landed): check and time WGSL products.
use std::borrow::Cow;
use std::time::Instant;
use wgpu::util::DeviceExt as _;

#[derive(Clone)]
struct Spec {
    name: String,
    file: String,
    kind: String,
    fmt: String,
    tm: usize,
    tn: usize,
    entry: String,
    xm: bool,
    lin: bool,
    defs: Vec<(String, String)>,
    trust: bool,
}

fn parse(s: &str) -> Spec {
    let mut sp = Spec {
        name: String::new(),
        file: String::new(),
        kind: "nt".into(),
        fmt: "f32".into(),
        tm: 8,
        tn: 8,
        xm: false,
        lin: false,
        entry: "product".into(),
        defs: vec![],
        trust: true,
    };
    for kv in s.split(',') {
        let (k, v) = kv.split_once('=').unwrap();
        match k {
            "file" => sp.file = v.into(),
            "kind" => sp.kind = v.into(),
            "fmt" => sp.fmt = v.into(),
            "name" => sp.name = v.into(),
            "tm" => sp.tm = v.parse().unwrap(),
            "tn" => sp.tn = v.parse().unwrap(),
            "entry" => sp.entry = v.into(),
            "lin" => sp.lin = v == "1",
            "xm" => sp.xm = v == "1",
            "trust" => sp.trust = v == "1",
            _ => sp.defs.push((k.into(), v.into())),
        }
    }
    if sp.name.is_empty() {
        sp.name = format!(
            "{}:{}:{}",
            std::path::Path::new(&sp.file)
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap(),
            sp.kind,
            sp.fmt
        );
    }
    sp
}
fn expand(file: &str, fmt: &str, defs: &[(String, String)]) -> String {
    let dir = std::path::Path::new(file).parent().unwrap();
    let mut text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let sub = |t: String| {
        let mut t = t.replace("{WEIGHT}", fmt);
        for (k, v) in defs {
            t = t.replace(&format!("{{{k}}}"), v);
        }
        t
    };
    text = sub(text);
    let mut out = String::new();
    for line in text.lines() {
        if let Some(p) = line.trim().strip_prefix("//!include ") {
            out +=
                &sub(std::fs::read_to_string(dir.join(p.trim()))
                    .unwrap_or_else(|e| panic!("{p}: {e}")));
        } else {
            out += line;
        }
        out.push('\n');
    }
    out
}
struct Rng(u64);
impl Rng {
    fn u(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32 ^ ((self.0 >> 11) as u32)
    }
    fn f(&mut self) -> f32 {
        (self.u() % 20001) as f32 / 10000.0 - 1.0
    }
}

/// (quants, scales, dense)
fn weights(fmt: &str, rows: usize, cols: usize, r: &mut Rng) -> (Vec<u8>, Vec<u8>, Vec<f32>) {
    let n = rows * cols;
    let mut dense = vec![0f32; n];
    let mut q = vec![];
    let mut s: Vec<u8> = vec![];
    let h = |x: f32| half::f16::from_f32(x);
    match fmt {
        "f32" => {
            for d in dense.iter_mut() {
                *d = r.f();
                q.extend(d.to_le_bytes());
            }
        }
        "f16" => {
            for d in dense.iter_mut() {
                let v = h(r.f());
                *d = v.to_f32();
                q.extend(v.to_bits().to_le_bytes());
            }
        }
        "bf16" => {
            for d in dense.iter_mut() {
                let v = half::bf16::from_f32(r.f());
                *d = v.to_f32();
                q.extend(v.to_bits().to_le_bytes());
            }
        }
        _ => {
            for b in 0..n / 32 {
                let d = h(r.f() * 0.1);
                let m = h(r.f() * 0.5);
                s.extend(d.to_bits().to_le_bytes());
                if fmt == "q4_1" {
                    s.extend(m.to_bits().to_le_bytes());
                }
                if fmt == "q8_0" {
                    for j in 0..32 {
                        let v = (r.u() >> 5) as u8;
                        q.push(v);
                        dense[b * 32 + j] = d.to_f32() * (v as i8) as f32;
                    }
                } else {
                    for j in 0..16 {
                        let v = (r.u() >> 5) as u8;
                        q.push(v);
                        let (lo, hi) = ((v & 15) as f32, (v >> 4) as f32);
                        let f = |x: f32| {
                            if fmt == "q4_1" {
                                d.to_f32() * x + m.to_f32()
                            } else {
                                d.to_f32() * (x - 8.0)
                            }
                        };
                        dense[b * 32 + j] = f(lo);
                        dense[b * 32 + 16 + j] = f(hi);
                    }
                }
            }
        }
    }
    if s.is_empty() {
        s = vec![0; 16];
    }
    while s.len() % 4 != 0 {
        s.push(0);
    }
    (q, s, dense)
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}
impl Gpu {
    fn new() -> Gpu {
        let mut d = wgpu::InstanceDescriptor::new_without_display_handle();
        d.backends = wgpu::Backends::VULKAN;
        d.flags = wgpu::InstanceFlags::empty();
        let instance = wgpu::Instance::new(d);
        let adapter =
            pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))
                .unwrap();
        println!("adapter {:?}", adapter.get_info().name);
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::default(),
            ..Default::default()
        }))
        .unwrap();
        Gpu { device, queue }
    }
    fn pipeline(&self, sp: &Spec) -> wgpu::ComputePipeline {
        let src = expand(&sp.file, &sp.fmt, &sp.defs);
        let desc = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(Cow::Owned(src)),
        };
        let module = if sp.trust {
            unsafe {
                self.device
                    .create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked())
            }
        } else {
            self.device.create_shader_module(desc)
        };
        let t = Instant::now();
        let nbuf = match sp.kind.as_str() {
            "tn" => 3,
            _ => 4,
        };
        let mut entries = vec![];
        for b in 0..=nbuf {
            entries.push(wgpu::BindGroupLayoutEntry {
                binding: b,
                visibility: wgpu::ShaderStages::COMPUTE,
                count: None,
                ty: wgpu::BindingType::Buffer {
                    ty: if b == 0 {
                        wgpu::BufferBindingType::Uniform
                    } else {
                        wgpu::BufferBindingType::Storage {
                            read_only: b != nbuf,
                        }
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
            });
        }
        let bgl = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
        let layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&bgl)],
                immediate_size: 0,
            });
        let p = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&layout),
                module: &module,
                entry_point: Some(&sp.entry),
                compilation_options: Default::default(),
                cache: None,
            });
        if std::env::var("VERBOSE").is_ok() {
            println!("compile {} {:.2}s", sp.name, t.elapsed().as_secs_f32());
        }
        p
    }
    fn buf(&self, b: &[u8], u: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device
            .create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: b,
                usage: u | wgpu::BufferUsages::COPY_SRC,
            })
    }
    fn wait(&self) {
        self.device
            .poll(wgpu::PollType::Wait {
                submission_index: None,
                timeout: None,
            })
            .unwrap();
    }
    fn read(&self, b: &wgpu::Buffer) -> Vec<f32> {
        let s = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: b.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut e = self.device.create_command_encoder(&Default::default());
        e.copy_buffer_to_buffer(b, 0, &s, 0, b.size());
        self.queue.submit([e.finish()]);
        s.slice(..).map_async(wgpu::MapMode::Read, |r| r.unwrap());
        self.wait();
        let v = s.slice(..).get_mapped_range().unwrap().to_vec();
        bytemuck::pod_collect_to_vec(&v)
    }
}
struct Problem {
    bg: wgpu::BindGroup,
    out: wgpu::Buffer,
    grid: (u32, u32),
    want: Vec<f64>,
    mag: Vec<f64>,
    y0: Vec<f32>,
    pipe: wgpu::ComputePipeline,
    name: String,
    flops: f64,
}
fn problem(
    g: &Gpu,
    sp: &Spec,
    pipe: &wgpu::ComputePipeline,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    beta: f32,
    reference: bool,
) -> Problem {
    let mut r = Rng(12345 + m as u64 * 7 + n as u64 * 13 + k as u64);
    let st = wgpu::BufferUsages::STORAGE;
    let (rows_out, cols_out) = match sp.kind.as_str() {
        "nt" => (m, n),
        "nn" => (m, k),
        _ => (n, k),
    };
    let y0: Vec<f32> = (0..rows_out * cols_out)
        .map(|_| if beta == 0.0 { f32::NAN } else { r.f() })
        .collect();
    let out = g.buf(bytemuck::cast_slice(&y0), st | wgpu::BufferUsages::COPY_DST);
    let mut params = vec![];
    for v in [m as u32, n as u32, k as u32] {
        params.extend(v.to_le_bytes());
    }
    params.extend(alpha.to_le_bytes());
    params.extend(beta.to_le_bytes());
    params.extend([0u8; 12]);
    let pb = g.buf(&params, wgpu::BufferUsages::UNIFORM);
    let mut want = vec![];
    let mut mag = vec![];
    let xlen = match sp.kind.as_str() {
        "nt" => m * k,
        "nn" => m * n,
        _ => m * n,
    };
    let x: Vec<f32> = (0..xlen).map(|_| r.f()).collect();
    let xb = g.buf(bytemuck::cast_slice(&x), st);
    let mut bufs = vec![pb, xb];
    let dense;
    if sp.kind == "tn" {
        let b: Vec<f32> = (0..m * k).map(|_| r.f()).collect();
        bufs.push(g.buf(bytemuck::cast_slice(&b), st));
        dense = b;
    } else {
        let (q, s, d) = weights(&sp.fmt, n, k, &mut r);
        bufs.push(g.buf(&q, st));
        bufs.push(g.buf(&s, st));
        dense = d;
    }
    if reference {
        want = vec![0f64; rows_out * cols_out];
        mag = want.clone();
        for i in 0..rows_out {
            for j in 0..cols_out {
                let (mut a, mut b) = (0f64, 0f64);
                let len = match sp.kind.as_str() {
                    "nt" => k,
                    "nn" => n,
                    _ => m,
                };
                for l in 0..len {
                    let (p, q) = match sp.kind.as_str() {
                        "nt" => (x[i * k + l], dense[j * k + l]),
                        "nn" => (x[i * n + l], dense[l * k + j]),
                        _ => (x[l * n + i], dense[l * k + j]),
                    };
                    a += p as f64 * q as f64;
                    b += (p as f64 * q as f64).abs();
                }
                let o = if beta == 0.0 {
                    0.0
                } else {
                    y0[i * cols_out + j] as f64 * beta as f64
                };
                want[i * cols_out + j] = a * alpha as f64 + o;
                mag[i * cols_out + j] = b * alpha.abs() as f64 + o.abs();
            }
        }
    }
    bufs.push(out.clone());
    let lin = sp.kind == "tn" && sp.lin;
    let bgl = pipe.get_bind_group_layout(0);
    let entries: Vec<_> = bufs
        .iter()
        .enumerate()
        .map(|(i, b)| wgpu::BindGroupEntry {
            binding: i as u32,
            resource: b.as_entire_binding(),
        })
        .collect();
    let bg = g.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &bgl,
        entries: &entries,
    });
    let grid = if lin {
        (
            (rows_out.div_ceil(sp.tm / 8) * cols_out.div_ceil(sp.tn)).div_ceil(8) as u32,
            1,
        )
    } else if sp.xm {
        (
            rows_out.div_ceil(sp.tm) as u32,
            cols_out.div_ceil(sp.tn) as u32,
        )
    } else {
        (
            cols_out.div_ceil(sp.tn) as u32,
            rows_out.div_ceil(sp.tm) as u32,
        )
    };
    Problem {
        bg,
        out,
        grid,
        want,
        mag,
        y0,
        pipe: pipe.clone(),
        name: sp.name.clone(),
        flops: 2.0 * m as f64 * n as f64 * k as f64,
    }
}
#[repr(C)]
struct Ts {
    s: i64,
    n: i64,
}
unsafe extern "C" {
    fn clock_gettime(c: i32, t: *mut Ts) -> i32;
}
/// CPU seconds of this process, all threads: what a loaded machine cannot distort much.
fn cpu() -> f64 {
    let mut t = Ts { s: 0, n: 0 };
    unsafe {
        clock_gettime(2, &mut t);
    }
    t.s as f64 + t.n as f64 * 1e-9
}
fn run(g: &Gpu, p: &Problem, times: usize) -> f64 {
    let t = cpu();
    let mut e = g.device.create_command_encoder(&Default::default());
    {
        let mut c = e.begin_compute_pass(&Default::default());
        c.set_pipeline(&p.pipe);
        c.set_bind_group(0, &p.bg, &[]);
        for _ in 0..times {
            c.dispatch_workgroups(p.grid.0, p.grid.1, 1);
        }
    }
    g.queue.submit([e.finish()]);
    g.wait();
    (cpu() - t) / times as f64 / 2.0
}
fn check(g: &Gpu, sp: &Spec) -> bool {
    let pipe = g.pipeline(sp);
    let block = matches!(sp.fmt.as_str(), "q8_0" | "q4_0" | "q4_1");
    let unit = if block { 32 } else { 4 };
    let mut bad = 0;
    let mut cases = 0;
    let mut worst = 0f64;
    let ms: Vec<usize> = if std::env::var("QUICK").is_ok() {
        vec![1, 9, 65]
    } else {
        vec![1, 3, 7, 8, 9, 63, 64, 65, 130]
    };
    let dims: Vec<(usize, usize)> = if sp.kind == "tn" {
        vec![
            (4, 4),
            (4, 36),
            (16, 12),
            (12, 16),
            (16, 132),
            (132, 16),
            (68, 64),
            (16, 576),
        ]
    } else {
        vec![
            (unit, unit),
            (unit * 3, unit),
            (unit, unit * 3),
            (unit * 5, unit * 7),
            (4, unit * 9),
            (36, unit),
            (68, unit * 3),
            (132, unit * 5),
            (if block { 96 } else { 576 }, unit * 2),
        ]
    };
    for &m in &ms {
        for &(n, k) in &dims {
            for (alpha, beta) in [(1.0, 0.0), (0.5, 1.0)] {
                let m = if sp.kind == "tn" && m == 130 { 1030 } else { m };
                if let Ok(only) = std::env::var("ONLYM") {
                    if only.parse::<usize>().unwrap() < m {
                        continue;
                    }
                }
                let p = problem(g, sp, &pipe, m, n, k, alpha, beta, true);
                cases += 1;
                run(g, &p, 1);
                let got = g.read(&p.out);
                let mut w = 0f64;
                let mut at = 0;
                for i in 0..got.len() {
                    let e = (got[i] as f64 - p.want[i]).abs() / (p.mag[i] + 1e-6);
                    let e = if e.is_nan() { f64::INFINITY } else { e };
                    if e > w {
                        w = e;
                        at = i;
                    }
                }
                worst = worst.max(w);
                if w > 2e-6 {
                    bad += 1;
                    if bad < 5 {
                        println!(
                            "  BAD {} m={m} n={n} k={k} alpha={alpha} beta={beta}: err {w:.2e} at {at}: {} want {} y0 {}",
                            sp.name, got[at], p.want[at], p.y0[at]
                        );
                    }
                }
            }
        }
    }
    println!(
        "check {:40} {cases} cases, {bad} bad, worst {worst:.1e}",
        sp.name
    );
    bad == 0
}
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let g = Gpu::new();
    let mut shapes: Vec<(usize, usize, usize)> = vec![];
    let mut specs = vec![];
    let mut do_check = false;
    let mut reps = 5;
    for a in &args {
        if a == "check" {
            do_check = true;
        } else if let Some(r) = a.strip_prefix("reps:") {
            reps = r.parse().unwrap();
        } else if let Some(s) = a.strip_prefix("shape:") {
            let v: Vec<usize> = s.split('x').map(|x| x.parse().unwrap()).collect();
            shapes.push((v[0], v[1], v[2]));
        } else {
            specs.push(parse(a));
        }
    }
    if do_check {
        let mut ok = true;
        for s in &specs {
            ok &= check(&g, s);
        }
        if !ok {
            std::process::exit(1);
        }
    }
    for &(m, n, k) in &shapes {
        let ps: Vec<Problem> = specs
            .iter()
            .map(|s| {
                let pipe = g.pipeline(s);
                let t = Instant::now();
                let p = problem(&g, s, &pipe, m, n, k, 1.0, 0.0, false);
                run(&g, &p, 1);
                if std::env::var("VERBOSE").is_ok() {
                    println!("first {} {:.2}s", s.name, t.elapsed().as_secs_f32());
                }
                p
            })
            .collect();
        let mut best = vec![f64::INFINITY; ps.len()];
        let mut all = vec![vec![]; ps.len()];
        for _ in 0..reps {
            for (i, p) in ps.iter().enumerate() {
                let t = run(
                    &g,
                    p,
                    if p.flops < 2e8 {
                        (2e8 / p.flops).ceil().min(200.0) as usize
                    } else {
                        1
                    },
                );
                best[i] = best[i].min(t);
                all[i].push(t);
            }
        }
        for (i, p) in ps.iter().enumerate() {
            all[i].sort_by(f64::total_cmp);
            println!(
                "{m}x{n}x{k} {:44} best {:7.2} GFLOP/s  median {:7.2}  ({:.3} ms)",
                p.name,
                p.flops / best[i] / 1e9,
                p.flops / all[i][reps / 2] / 1e9,
                best[i] * 1e3
            );
        }
    }
}
