// Attention, a block of queries of one head a workgroup, keys block by block with an online
// softmax.
//!include shared/grid.wgsl
//!include shared/precise.wgsl
//!include shared/attention.wgsl

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;

var<workgroup> partial: array<f32, LANES>;
// What each row's sums so far are multiplied by.
var<workgroup> factor: array<f32, MAX_ROWS>;

fn scale_rows(sums: mat4x4<f32>, row: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        sums[0] * factor[row],
        sums[1] * factor[row + 1u],
        sums[2] * factor[row + 2u],
        sums[3] * factor[row + 3u],
    );
}

fn visible(scores: vec4<f32>, key: u32, first: u32, last: u32) -> vec4<f32> {
    let keys = vec4<u32>(key, key + 1u, key + 2u, key + 3u);
    return select(vec4<f32>(NONE), scores_of(scores), (keys >= vec4<u32>(first)) & (keys <= vec4<u32>(last)));
}

fn largest_of(a: vec4<f32>) -> f32 {
    return max(max(a.x, a.y), max(a.z, a.w));
}

// Where keys from `round` on, a multiple of the span, start: those of one workgroup go over the
// last row once at most.
fn cached_at(keys: vec4<u32>, round: u32, head: u32) -> vec4<u32> {
    let rows = keys - round;
    return kv_at(min(rows, rows - params.span), head);
}

fn store(head: u32, query: u32, chunk: u32, value: vec4<f32>) {
    if query < params.tokens {
        o[(query * params.heads + head) * params.width + chunk] = value;
    }
}

// Writes o of queries row0.. and returns the log-sum-exp of the row that this lane has a part of.
// The keys of the lane's four rows of scores are firsts..=lasts; those of all rows lie in
// begin..end.
fn attend(head: u32, row0: u32, lane: u32, firsts: vec4<u32>, lasts: vec4<u32>, begin: u32, end: u32) -> f32 {
    let kv_head = head / (params.heads / params.kv_heads);
    let width = params.width;
    let round = begin / params.span * params.span;

    // Scores: four queries x eight keys.
    let across = params.cols / 8u;
    let s_row = lane / across * 4u;
    let s_col = lane % across * 8u;
    let queries = q_at(up_to(row0 + s_row, params.tokens - 1u), head);

    // Softmax: a few lanes a row, 32 keys each.
    let sharers = LANES / params.rows;
    let row = lane / sharers;
    let part = row * tile_stride() + lane % sharers * 8u;
    var m = NONE;
    var sum = 0.0;

    // Output: eight queries x one chunk.
    let chunk = lane % width;
    let o_row = lane / width * 8u;
    let writes = o_row < params.rows;
    var low = mat4x4<f32>();
    var high = mat4x4<f32>();

    for (var block = begin; block < end; block += params.cols) {
        let near = cached_at(up_to(block + s_col, end - 1u), round, kv_head);
        let far = cached_at(up_to(block + s_col + 4u, end - 1u), round, kv_head);
        var s_near = mat4x4<f32>();
        var s_far = mat4x4<f32>();
        for (var d = 0u; d < width; d++) {
            let query = mat4x4<f32>(q[queries.x + d], q[queries.y + d], q[queries.z + d], q[queries.w + d]);
            s_near += transpose(mat4x4<f32>(k[near.x + d], k[near.y + d], k[near.z + d], k[near.w + d])) * query;
            s_far += transpose(mat4x4<f32>(k[far.x + d], k[far.y + d], k[far.z + d], k[far.w + d])) * query;
        }
        let key = block + s_col;
        keep(s_row, s_col, visible(s_near[0], key, firsts.x, lasts.x), visible(s_far[0], key + 4u, firsts.x, lasts.x));
        keep(s_row + 1u, s_col, visible(s_near[1], key, firsts.y, lasts.y), visible(s_far[1], key + 4u, firsts.y, lasts.y));
        keep(s_row + 2u, s_col, visible(s_near[2], key, firsts.z, lasts.z), visible(s_far[2], key + 4u, firsts.z, lasts.z));
        keep(s_row + 3u, s_col, visible(s_near[3], key, firsts.w, lasts.w), visible(s_far[3], key + 4u, firsts.w, lasts.w));
        workgroupBarrier();

        var largest = m;
        for (var i = 0u; i < 8u; i++) {
            largest = max(largest, largest_of(tile[part + i]));
        }
        partial[lane] = largest;
        workgroupBarrier();
        for (var i = 0u; i < sharers; i++) {
            largest = max(largest, partial[row * sharers + i]);
        }
        let decay = exp(m - largest);
        m = largest;
        sum *= decay;
        for (var i = 0u; i < 8u; i++) {
            // Where a row has seen no key of its own yet, m is NONE and this counts others' keys:
            // the decay at its first own key is 0.
            let e = exp(tile[part + i] - m);
            tile[part + i] = e;
            sum += (e.x + e.y) + (e.z + e.w);
        }
        if lane % sharers == 0u {
            factor[row] = decay;
        }
        workgroupBarrier();

        if writes {
            low = scale_rows(low, o_row);
            high = scale_rows(high, o_row + 4u);
            let chunks = (min(params.cols, end - block) + 3u) / 4u;
            for (var c = 0u; c < chunks; c++) {
                let at = cached_at(up_to(block + 4u * c, end - 1u), round, kv_head) + chunk;
                let value = mat4x4<f32>(v[at.x], v[at.y], v[at.z], v[at.w]);
                low += value * fetch(o_row, c);
                high += value * fetch(o_row + 4u, c);
            }
        }
        workgroupBarrier();
    }

    partial[lane] = sum;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < sharers; i++) {
        total += partial[row * sharers + i];
    }
    if lane % sharers == 0u {
        factor[row] = 1.0 / total;
    }
    workgroupBarrier();
    if writes {
        low = scale_rows(low, o_row);
        high = scale_rows(high, o_row + 4u);
        let query = row0 + o_row;
        store(head, query, chunk, low[0]);
        store(head, query + 1u, chunk, low[1]);
        store(head, query + 2u, chunk, low[2]);
        store(head, query + 3u, chunk, low[3]);
        store(head, query + 4u, chunk, high[0]);
        store(head, query + 5u, chunk, high[1]);
        store(head, query + 6u, chunk, high[2]);
        store(head, query + 7u, chunk, high[3]);
    }
    return m + precise_ln(total);
}

// Packed samples: a query sees its own sample's keys, if causal up to its own place, and those
// within the window.
@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat_group(group, groups);
    let head = index % params.heads;
    let row0 = index / params.heads * params.rows;
    if row0 >= params.tokens {
        return;
    }
    let queries = up_to(row0 + lane / (params.cols / 8u) * 4u, params.tokens - 1u);
    let spans_of = array<vec2<u32>, 4>(spans[queries.x], spans[queries.y], spans[queries.z], spans[queries.w]);
    let firsts = within(vec4<u32>(spans_of[0].x, spans_of[1].x, spans_of[2].x, spans_of[3].x), queries);
    let lasts = last_seen(queries, vec4<u32>(spans_of[0].y, spans_of[1].y, spans_of[2].y, spans_of[3].y));
    // The keys of the first row begin first, those of the last end last.
    let begin = within(vec4<u32>(spans[row0].x), vec4<u32>(row0)).x;
    let last_row = min(row0 + params.rows, params.tokens) - 1u;
    let end = last_seen(vec4<u32>(last_row), vec4<u32>(spans[last_row].y)).x + 1u;
    let log_sum = attend(head, row0, lane, firsts, lasts, begin, end);
    let sharers = LANES / params.rows;
    let query = row0 + lane / sharers;
    if lane % sharers == 0u && query < params.tokens {
        lse[query * params.heads + head] = log_sum;
    }
}

// One text: query i sees keys 0..=past + i, the last of them where there is a window. Key j lies in
// row j mod span.
@compute @workgroup_size(LANES)
fn prefill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat_group(group, groups);
    let head = index % params.heads;
    let row0 = index / params.heads * params.rows;
    if row0 >= params.tokens {
        return;
    }
    let lasts = params.past + up_to(row0 + lane / (params.cols / 8u) * 4u, params.tokens - 1u);
    let end = params.past + min(row0 + params.rows, params.tokens);
    let begin = within(vec4<u32>(0u), vec4<u32>(params.past + row0)).x;
    _ = attend(head, row0, lane, within(vec4<u32>(0u), lasts), lasts, begin, end);
}
