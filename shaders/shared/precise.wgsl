// Logarithm and exponential near the points where the built-in ones lose all digits, and with
// errors that do not depend on the driver. No expression here breaks under reassociation.

// 2·atanh(z) = ln((1 + z) / (1 - z)) for |z| <= 1/3.
fn twice_atanh(z: f32) -> f32 {
    let w = z * z;
    let tail = w * (1.0 / 3.0 + w * (1.0 / 5.0 + w * (1.0 / 7.0 + w * (1.0 / 9.0
        + w * (1.0 / 11.0 + w * (1.0 / 13.0 + w * (1.0 / 15.0)))))));
    return 2.0 * z + 2.0 * z * tail;
}

// ln(x) of a normal positive x.
fn precise_ln(x: f32) -> f32 {
    // x = 2^exponent · mantissa with a mantissa in 0.70..1.41.
    let bits = bitcast<u32>(x) - 0x3f333333u;
    let exponent = bitcast<i32>(bits) >> 23u;
    let mantissa = bitcast<f32>((bits & 0x007fffffu) + 0x3f333333u);
    return twice_atanh((mantissa - 1.0) / (mantissa + 1.0)) + f32(exponent) * 0.69314718;
}

// ln(1 + x) of x >= 0.
fn ln_1p(x: f32) -> f32 {
    if x < 1.0 {
        return twice_atanh(x / (2.0 + x));
    }
    return precise_ln(1.0 + x);
}

// 1 - exp(x) of x <= 0.
fn one_minus_exp(x: f32) -> f32 {
    if x > -0.5 {
        return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0
            * (1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0)))))));
    }
    return 1.0 - exp(x);
}
