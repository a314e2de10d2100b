// The result of an invocation that keeps 8 rows × 16 columns of it in registers, a row in each
// array.
const ROWS: u32 = 8u;
const COLUMNS: u32 = 16u;

alias Row = array<vec4<f32>, 4>;

fn store_eight(
    row: u32, column: u32,
    r0: ptr<function, Row>, r1: ptr<function, Row>, r2: ptr<function, Row>, r3: ptr<function, Row>,
    r4: ptr<function, Row>, r5: ptr<function, Row>, r6: ptr<function, Row>, r7: ptr<function, Row>,
) {
    // One store in the code instead of eight: its many checks are what a browser's compiler spends
    // its memory on.
    for (var r = 0u; r < ROWS; r++) {
        var sums = *r0;
        switch r {
            case 1u: { sums = *r1; }
            case 2u: { sums = *r2; }
            case 3u: { sums = *r3; }
            case 4u: { sums = *r4; }
            case 5u: { sums = *r5; }
            case 6u: { sums = *r6; }
            case 7u: { sums = *r7; }
            default: {}
        }
        store(row + r, column, sums[0]);
        store(row + r, column + 4u, sums[1]);
        store(row + r, column + 8u, sums[2]);
        store(row + r, column + 12u, sums[3]);
    }
}
