//! `kinfer perplexity`.

mod common;

use common::{World, smollm2};

const TEXT: &str = include_str!("../../../tests/data/gpl-3.txt");

#[test]
fn it_is_what_score_says_and_the_distance_to_itself_is_none() {
    let world = World::new();
    let text = world.file("text.txt", &TEXT[..6000]);
    let base = world.home.path().join("base.kl").into_os_string().into_string().unwrap();
    let common = ["perplexity", &smollm2(), &text, "-c", "128", "--windows", "3", "--json"];
    let json = world.run(&[&common[..], &["--save-kl-base", &base]].concat()).ok().json();
    assert_eq!((&json["windows"], &json["scored"]), (&3.into(), &(3 * 63).into()));
    let whole = world.run(&["perplexity", &smollm2(), &text, "-c", "128", "--json"]).ok().json();
    let score = world.run(&["score", &smollm2(), "--text", &text, "-c", "128", "--json"]).ok().json();
    let of = |json: &serde_json::Value| json["perplexity"].as_f64().unwrap();
    assert!((of(&whole) / of(&score) - 1.0).abs() < 1e-4, "{whole} {}", of(&score));
    assert_eq!(whole["scored"], score["scored"]);

    let distance = |more: &[&str]| {
        let json = world.run(&[&common[..], &["--kl-base", &base], more].concat()).ok().json();
        (json["mean_kl"].as_f64().unwrap(), json["same_top"].as_f64().unwrap())
    };
    let (kl, same) = distance(&[]);
    // Half precision may make the first two equal.
    assert!(kl.abs() < 1e-3 && same > 0.98, "{kl} {same}");
    let (rough, less) = distance(&["-ctk", "q4_0"]);
    assert!(rough > 10.0 * kl.abs() && less < 1.0, "{rough} {less}");

    world.run(&["perplexity", &smollm2(), &text, "-c", "256", "--kl-base", &base]).fails(2, "window size");
    world.run(&["perplexity", &smollm2(), &text, "--kl-base", &text]).fails(2, "--save-kl-base");
    world.run(&["perplexity", &smollm2(), &world.file("short.txt", "a b")]).fails(2, "512");
    world.run(&["perplexity", &smollm2(), &text, "-c", "9000"]).fails(2, "9000");
}
