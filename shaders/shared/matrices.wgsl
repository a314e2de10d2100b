// Products by matrices of SIDE × SIDE, each loaded and multiplied by a subgroup together, with sums
// in f32. A workgroup makes TILE × TILE results from tiles of DEPTH terms of their sums, each of
// its four subgroups 2 × 2 matrices. LANES counts subgroups of the adapter's largest size; where a
// driver takes smaller ones, neighbours make the same matrices.
//
// The shader around it has what shared/product.wgsl takes and gives, `left4`, which loads four
// neighbours of a token's terms, a weight's loader, and `right`, a tile of it.

alias Real = {{REAL}};
alias Left = coop_mat{{SIDE}}x{{SIDE}}<{{REAL}}, A>;
alias Right = coop_mat{{SIDE}}x{{SIDE}}<{{REAL}}, B>;
alias Sum = coop_mat{{SIDE}}x{{SIDE}}<f32, C>;

const SIDE: u32 = {{SIDE}}u;
const LANES: u32 = {{LANES}}u;
const TILE: u32 = 4u * SIDE;
const DEPTH: u32 = 32u;
// From row to row: a multiple of 16 bytes, and neighbouring rows begin in different banks.
const PITCH: u32 = DEPTH + 8u;
// Sixteen neighbours of a row of W are half a chunk, a whole one, or four chunks.
const WEIGHT_LOADS: u32 = max(16u / CHUNK, 1u);

var<workgroup> left: array<Real, TILE * PITCH>; // [token][term]
var<workgroup> sums: array<f32, 4u * SIDE * SIDE>; // a matrix of each subgroup

// Tokens beyond the last are the last again and not stored. Terms beyond the last are zero.
fn put_left(token: u32, term: u32, terms: u32, lane: u32) {
    for (var i = lane; i < TILE * DEPTH / 4u; i += LANES) {
        let row = i / (DEPTH / 4u);
        let v = i % (DEPTH / 4u) * 4u;
        let at = min(token + row, params.tokens - 1u) * (terms / 4u) + min(term + v, terms - 4u) / 4u;
        let four = vec4<Real>(select(vec4<f32>(0.0), left4(at), term + v < terms));
        let slot = row * PITCH + v;
        left[slot] = four.x;
        left[slot + 1u] = four.y;
        left[slot + 2u] = four.z;
        left[slot + 3u] = four.w;
    }
}

// Sixteen neighbours of a row of W, from element `first` on. Beyond the row's end the last chunk is
// repeated.
fn put_right(row: u32, first: u32, slot: u32) {
    let chunks = params.cols / CHUNK;
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        let packed = fetch_chunk(row * chunks + min(first / CHUNK + l, chunks - 1u));
        let chunk = open_chunk(packed, first % CHUNK / 4u);
        for (var i = 0u; i < 4u / WEIGHT_LOADS; i++) {
            let four = vec4<Real>(weight4(chunk, i));
            let at = slot + 4u * (l * (4u / WEIGHT_LOADS) + i);
            right[at] = four.x;
            right[at + 1u] = four.y;
            right[at + 2u] = four.z;
            right[at + 3u] = four.w;
        }
    }
}

// Where the subgroup's matrices begin in the tile, and its part of `sums`.
struct Block { row: u32, column: u32, own: u32 }

fn block(lane: u32) -> Block {
    let number = lane / (LANES / 4u);
    return Block(number / 2u * 2u * SIDE, number % 2u * 2u * SIDE, number * SIDE * SIDE);
}

// Stores matrix `i`, `j` of each subgroup from `sums`, which its subgroup has just written. `row`
// and `column` are the tile's.
fn store_matrices(row: u32, column: u32, i: u32, j: u32, lane: u32) {
    workgroupBarrier();
    for (var n = lane; n < SIDE * SIDE; n += LANES) {
        let number = n / (SIDE * SIDE / 4u);
        let within = n % (SIDE * SIDE / 4u) * 4u;
        let at = n * 4u;
        store(
            row + (number / 2u * 2u + i) * SIDE + within / SIDE,
            column + (number % 2u * 2u + j) * SIDE + within % SIDE,
            vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]),
        );
    }
    workgroupBarrier();
}
