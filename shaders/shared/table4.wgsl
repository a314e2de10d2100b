// Weights by the values of a table of signed bytes, of which `TABLE` has four in a word.

fn table1(code: u32) -> f32 {
    return signed_byte(TABLE[code >> 2u] >> (8u * (code & 3u)), 0u);
}

fn table4(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(table1(codes.x), table1(codes.y), table1(codes.z), table1(codes.w));
}
