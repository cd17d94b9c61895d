//! What each function must say, computed in another way than the function does.

const FILE_BYTES: usize = 50 << 20;

/// Compares the answer of the function whose name begins with what it does.
pub fn check(name: &str, body: &str) {
    let (function, _) = name.split_once('-').unwrap();
    let number = || -> f64 { body.trim().parse().unwrap_or_else(|_| panic!("{name} said {body:?}")) };
    match function {
        "noop" => assert_eq!(body, "\n", "{name}"),
        "fibonacci" => assert_eq!(body.trim(), fibonacci(1_000_000_000).to_string(), "{name}"),
        "fft" => assert!((number() / energy() - 1.0).abs() < 1e-3, "{name}: {body}"),
        "matrix" => assert_eq!(number(), trace(), "{name}"),
        "allocate" => assert_eq!(body, "12800\n", "{name}"),
        "read" | "unzip" => assert_eq!(body.trim(), FILE_BYTES.to_string(), "{name}"),
        "file" => assert_eq!(body.len(), FILE_BYTES, "{name}"),
        _ => panic!("nobody knows what {name} should say"),
    }
}

/// The Fibonacci number modulo 2^64, by doubling: F(2k) = F(k) (2 F(k+1) - F(k)), F(2k+1) = F(k)^2 + F(k+1)^2.
fn fibonacci(index: u64) -> u64 {
    let (mut this, mut next) = (0_u64, 1_u64);
    for bit in (0..64).rev() {
        let double = this.wrapping_mul(next.wrapping_mul(2).wrapping_sub(this));
        let behind = this.wrapping_mul(this).wrapping_add(next.wrapping_mul(next));
        (this, next) = match index >> bit & 1 {
            0 => (double, behind),
            _ => (behind, double.wrapping_add(behind)),
        };
    }
    this
}

/// The spectrum's energy by Parseval's theorem: the number of points times the energy of the signal.
fn energy() -> f64 {
    let points = 1 << 20;
    let signal: f64 = (0..points).map(|index| f64::from(index).sin().powi(2)).sum();
    signal * f64::from(points)
}

/// The trace of the product, of whole numbers.
fn trace() -> f64 {
    let order = 1024_u64;
    let products = (0..order).flat_map(|row| (0..order).map(move |k| (row * order + k) % 7 * ((k * order + row) % 5)));
    products.sum::<u64>() as f64
}
