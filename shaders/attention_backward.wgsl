// Gradient of attention. The probabilities are made again from q, k and each query's log-sum-exp.
//!include shared/grid.wgsl
//!include shared/attention.wgsl

@group(0) @binding(1) var<storage, read> d_o: array<vec4<f32>>;
// (log-sum-exp, sum of d_o · o) of each query and head.
@group(0) @binding(2) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> o: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;

@group(0) @binding(2) var<storage, read> stats_read: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> dq: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> dv: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn gather_stats(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * LANES + lane;
    if i >= params.tokens * params.heads {
        return;
    }
    var sum = 0.0;
    for (var d = 0u; d < params.width; d++) {
        sum += dot(o[i * params.width + d], d_o[i * params.width + d]);
    }
    stats[i] = vec2<f32>(lse[i], sum);
}

// Gradient of four scores of one query with the keys from `key` on.
fn d_scores(score: vec4<f32>, d_p: vec4<f32>, key: u32, first: u32, last: u32, of_query: vec2<f32>) -> vec4<f32> {
    let keys = vec4<u32>(key, key + 1u, key + 2u, key + 3u);
    let p = exp(scores_of(score) - of_query.x);
    let seen = (keys >= vec4<u32>(first)) & (keys <= vec4<u32>(last));
    return select(vec4<f32>(0.0), p * (d_p - of_query.y) * slopes_of(score), seen);
}

fn store_dq(head: u32, query: u32, chunk: u32, value: vec4<f32>) {
    if query < params.tokens {
        dq[(query * params.heads + head) * params.width + chunk] = value;
    }
}

// Rows are queries of one head, columns keys.
@compute @workgroup_size(LANES)
fn backward_q(
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
    let kv_head = head / (params.heads / params.kv_heads);
    let width = params.width;
    let across = params.cols / 8u;
    let s_row = lane / across * 4u;
    let s_col = lane % across * 8u;
    let rows = up_to(row0 + s_row, params.tokens - 1u);
    let firsts = within(vec4<u32>(spans[rows.x].x, spans[rows.y].x, spans[rows.z].x, spans[rows.w].x), rows);
    let lasts = last_seen(rows, vec4<u32>(spans[rows.x].y, spans[rows.y].y, spans[rows.z].y, spans[rows.w].y));
    let begin = within(vec4<u32>(spans[row0].x), vec4<u32>(row0)).x;
    let last_row = min(row0 + params.rows, params.tokens) - 1u;
    let end = last_seen(vec4<u32>(last_row), vec4<u32>(spans[last_row].y)).x + 1u;
    let queries = q_at(rows, head);
    let of_queries = rows * params.heads + head;
    let of_0 = stats_read[of_queries.x];
    let of_1 = stats_read[of_queries.y];
    let of_2 = stats_read[of_queries.z];
    let of_3 = stats_read[of_queries.w];
    let chunk = lane % width;
    let o_row = lane / width * 8u;
    let writes = o_row < params.rows;
    var low = mat4x4<f32>();
    var high = mat4x4<f32>();

    for (var block = begin; block < end; block += params.cols) {
        let near = kv_at(up_to(block + s_col, end - 1u), kv_head);
        let far = kv_at(up_to(block + s_col + 4u, end - 1u), kv_head);
        var s_near = mat4x4<f32>();
        var s_far = mat4x4<f32>();
        var p_near = mat4x4<f32>();
        var p_far = mat4x4<f32>();
        for (var d = 0u; d < width; d++) {
            let query = mat4x4<f32>(q[queries.x + d], q[queries.y + d], q[queries.z + d], q[queries.w + d]);
            s_near += transpose(mat4x4<f32>(k[near.x + d], k[near.y + d], k[near.z + d], k[near.w + d])) * query;
            s_far += transpose(mat4x4<f32>(k[far.x + d], k[far.y + d], k[far.z + d], k[far.w + d])) * query;
            let up = mat4x4<f32>(d_o[queries.x + d], d_o[queries.y + d], d_o[queries.z + d], d_o[queries.w + d]);
            p_near += transpose(mat4x4<f32>(v[near.x + d], v[near.y + d], v[near.z + d], v[near.w + d])) * up;
            p_far += transpose(mat4x4<f32>(v[far.x + d], v[far.y + d], v[far.z + d], v[far.w + d])) * up;
        }
        let key = block + s_col;
        keep(
            s_row, s_col,
            d_scores(s_near[0], p_near[0], key, firsts.x, lasts.x, of_0),
            d_scores(s_far[0], p_far[0], key + 4u, firsts.x, lasts.x, of_0),
        );
        keep(
            s_row + 1u, s_col,
            d_scores(s_near[1], p_near[1], key, firsts.y, lasts.y, of_1),
            d_scores(s_far[1], p_far[1], key + 4u, firsts.y, lasts.y, of_1),
        );
        keep(
            s_row + 2u, s_col,
            d_scores(s_near[2], p_near[2], key, firsts.z, lasts.z, of_2),
            d_scores(s_far[2], p_far[2], key + 4u, firsts.z, lasts.z, of_2),
        );
        keep(
            s_row + 3u, s_col,
            d_scores(s_near[3], p_near[3], key, firsts.w, lasts.w, of_3),
            d_scores(s_far[3], p_far[3], key + 4u, firsts.w, lasts.w, of_3),
        );
        workgroupBarrier();
        if writes {
            let chunks = (min(params.cols, end - block) + 3u) / 4u;
            for (var c = 0u; c < chunks; c++) {
                let at = kv_at(up_to(block + 4u * c, end - 1u), kv_head) + chunk;
                let key_rows = mat4x4<f32>(k[at.x], k[at.y], k[at.z], k[at.w]);
                low += key_rows * fetch(o_row, c);
                high += key_rows * fetch(o_row + 4u, c);
            }
        }
        workgroupBarrier();
    }

    if writes {
        let query = row0 + o_row;
        store_dq(head, query, chunk, low[0]);
        store_dq(head, query + 1u, chunk, low[1]);
        store_dq(head, query + 2u, chunk, low[2]);
        store_dq(head, query + 3u, chunk, low[3]);
        store_dq(head, query + 4u, chunk, high[0]);
        store_dq(head, query + 5u, chunk, high[1]);
        store_dq(head, query + 6u, chunk, high[2]);
        store_dq(head, query + 7u, chunk, high[3]);
    }
}

// Probabilities of one key for four queries from `query` on. `first` is the first query that sees
// the key, `end` one past the last.
fn probabilities(score: vec4<f32>, query: u32, first: u32, end: u32, log_sums: vec4<f32>) -> vec4<f32> {
    let queries = vec4<u32>(query, query + 1u, query + 2u, query + 3u);
    let p = exp(scores_of(score) - log_sums);
    return select(vec4<f32>(0.0), p, (queries >= vec4<u32>(first)) & (queries < vec4<u32>(end)));
}

fn store_dkv(head: u32, key: u32, chunk: u32, k_value: vec4<f32>, v_value: vec4<f32>) {
    if key < params.tokens {
        let at = (key * params.kv_heads + head) * params.width + chunk;
        dk[at] = k_value;
        dv[at] = v_value;
    }
}

// Rows are keys of one key head, columns queries, of all the heads that read it in turn.
@compute @workgroup_size(LANES)
fn backward_kv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat_group(group, groups);
    let kv_head = index % params.kv_heads;
    let row0 = index / params.kv_heads * params.rows;
    if row0 >= params.tokens {
        return;
    }
    let readers = params.heads / params.kv_heads;
    let width = params.width;
    let across = params.cols / 8u;
    let s_row = lane / across * 4u;
    let s_col = lane % across * 8u;
    let rows = up_to(row0 + s_row, params.tokens - 1u);
    let span_ends = vec4<u32>(spans[rows.x].y, spans[rows.y].y, spans[rows.z].y, spans[rows.w].y);
    // Behind a key lie as many queries as the window holds, the key's own among them.
    let ends = rows + min(vec4<u32>(params.window), span_ends - rows);
    // The first queries that see these keys, and any key of the workgroup.
    var firsts = rows;
    var begin = row0;
    // One past the last query that sees any of these keys: ends rise from key to key.
    let last = min(row0 + params.rows, params.tokens) - 1u;
    let end = last + min(params.window, spans[last].y - last);
    if params.causal == 0u {
        firsts = within(vec4<u32>(spans[rows.x].x, spans[rows.y].x, spans[rows.z].x, spans[rows.w].x), rows);
        begin = within(vec4<u32>(spans[row0].x), vec4<u32>(row0)).x;
    }
    let keys = kv_at(rows, kv_head);
    let chunk = lane % width;
    let o_row = lane / width * 8u;
    let writes = o_row < params.rows;
    var dk_low = mat4x4<f32>();
    var dk_high = mat4x4<f32>();
    var dv_low = mat4x4<f32>();
    var dv_high = mat4x4<f32>();

    for (var head = kv_head * readers; head < (kv_head + 1u) * readers; head++) {
        for (var block = begin; block < end; block += params.cols) {
            let near_queries = up_to(block + s_col, end - 1u);
            let far_queries = up_to(block + s_col + 4u, end - 1u);
            let near = q_at(near_queries, head);
            let far = q_at(far_queries, head);
            var s_near = mat4x4<f32>();
            var s_far = mat4x4<f32>();
            var p_near = mat4x4<f32>();
            var p_far = mat4x4<f32>();
            for (var d = 0u; d < width; d++) {
                let key = mat4x4<f32>(k[keys.x + d], k[keys.y + d], k[keys.z + d], k[keys.w + d]);
                s_near += transpose(mat4x4<f32>(q[near.x + d], q[near.y + d], q[near.z + d], q[near.w + d])) * key;
                s_far += transpose(mat4x4<f32>(q[far.x + d], q[far.y + d], q[far.z + d], q[far.w + d])) * key;
                let value = mat4x4<f32>(v[keys.x + d], v[keys.y + d], v[keys.z + d], v[keys.w + d]);
                p_near += transpose(mat4x4<f32>(d_o[near.x + d], d_o[near.y + d], d_o[near.z + d], d_o[near.w + d])) * value;
                p_far += transpose(mat4x4<f32>(d_o[far.x + d], d_o[far.y + d], d_o[far.z + d], d_o[far.w + d])) * value;
            }
            let n = near_queries * params.heads + head;
            let f = far_queries * params.heads + head;
            // Columns of the transposed pairs: log-sum-exps and sums of four queries.
            let of_near = transpose(mat4x2<f32>(stats_read[n.x], stats_read[n.y], stats_read[n.z], stats_read[n.w]));
            let of_far = transpose(mat4x2<f32>(stats_read[f.x], stats_read[f.y], stats_read[f.z], stats_read[f.w]));
            let query = block + s_col;
            let near_0 = probabilities(s_near[0], query, firsts.x, ends.x, of_near[0]);
            let near_1 = probabilities(s_near[1], query, firsts.y, ends.y, of_near[0]);
            let near_2 = probabilities(s_near[2], query, firsts.z, ends.z, of_near[0]);
            let near_3 = probabilities(s_near[3], query, firsts.w, ends.w, of_near[0]);
            let far_0 = probabilities(s_far[0], query + 4u, firsts.x, ends.x, of_far[0]);
            let far_1 = probabilities(s_far[1], query + 4u, firsts.y, ends.y, of_far[0]);
            let far_2 = probabilities(s_far[2], query + 4u, firsts.z, ends.z, of_far[0]);
            let far_3 = probabilities(s_far[3], query + 4u, firsts.w, ends.w, of_far[0]);
            keep(s_row, s_col, near_0, far_0);
            keep(s_row + 1u, s_col, near_1, far_1);
            keep(s_row + 2u, s_col, near_2, far_2);
            keep(s_row + 3u, s_col, near_3, far_3);
            workgroupBarrier();

            let chunks = (min(params.cols, end - block) + 3u) / 4u;
            if writes {
                for (var c = 0u; c < chunks; c++) {
                    let at = q_at(up_to(block + 4u * c, end - 1u), head) + chunk;
                    let up = mat4x4<f32>(d_o[at.x], d_o[at.y], d_o[at.z], d_o[at.w]);
                    dv_low += up * fetch(o_row, c);
                    dv_high += up * fetch(o_row + 4u, c);
                }
            }
            workgroupBarrier();

            keep(s_row, s_col, near_0 * (p_near[0] - of_near[1]) * slopes_of(s_near[0]), far_0 * (p_far[0] - of_far[1]) * slopes_of(s_far[0]));
            keep(s_row + 1u, s_col, near_1 * (p_near[1] - of_near[1]) * slopes_of(s_near[1]), far_1 * (p_far[1] - of_far[1]) * slopes_of(s_far[1]));
            keep(s_row + 2u, s_col, near_2 * (p_near[2] - of_near[1]) * slopes_of(s_near[2]), far_2 * (p_far[2] - of_far[1]) * slopes_of(s_far[2]));
            keep(s_row + 3u, s_col, near_3 * (p_near[3] - of_near[1]) * slopes_of(s_near[3]), far_3 * (p_far[3] - of_far[1]) * slopes_of(s_far[3]));
            workgroupBarrier();

            if writes {
                for (var c = 0u; c < chunks; c++) {
                    let at = q_at(up_to(block + 4u * c, end - 1u), head) + chunk;
                    let query_rows = mat4x4<f32>(q[at.x], q[at.y], q[at.z], q[at.w]);
                    dk_low += query_rows * fetch(o_row, c);
                    dk_high += query_rows * fetch(o_row + 4u, c);
                }
            }
            workgroupBarrier();
        }
    }

    if writes {
        let key = row0 + o_row;
        store_dkv(kv_head, key, chunk, dk_low[0], dv_low[0]);
        store_dkv(kv_head, key + 1u, chunk, dk_low[1], dv_low[1]);
        store_dkv(kv_head, key + 2u, chunk, dk_low[2], dv_low[2]);
        store_dkv(kv_head, key + 3u, chunk, dk_low[3], dv_low[3]);
        store_dkv(kv_head, key + 4u, chunk, dk_high[0], dv_high[0]);
        store_dkv(kv_head, key + 5u, chunk, dk_high[1], dv_high[1]);
        store_dkv(kv_head, key + 6u, chunk, dk_high[2], dv_high[2]);
        store_dkv(kv_head, key + 7u, chunk, dk_high[3], dv_high[3]);
    }
}
