fn sigmoid(x: f32) -> f32 {
    // exp of a negative number alone, so that nothing overflows.
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
