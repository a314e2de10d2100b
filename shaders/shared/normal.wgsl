// erfc(z) of z >= 0: exp of a polynomial in 1 / (1 + z/2), within a few units in the last place.
fn erfc_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return t * exp(p - z * z);
}

// The normal distribution function.
fn normal_cdf(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(abs(x) * 0.70710678);
    return select(tail, 1.0 - tail, x >= 0.0);
}

fn normal_density(x: f32) -> f32 {
    return 0.39894228 * exp(-0.5 * x * x);
}
