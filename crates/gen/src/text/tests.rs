use super::*;
use crate::Reasoning;

/// Feeds the pieces, checks that no piece is emitted twice, and returns thinking, answer and the stop string.
fn run(params: &Params, pieces: &[&[u8]]) -> (String, String, Option<String>) {
    let (mut thinking, mut answer) = (String::new(), String::new());
    let mut emit = |e| match e {
        Event::Text { text, thinking: t } => {
            assert!(!text.is_empty());
            if t { thinking.push_str(&text) } else { answer.push_str(&text) }
        }
        other => panic!("{other:?}"),
    };
    let mut stream = TextStream::new(params);
    let mut stop = None;
    for piece in pieces {
        stop = stream.push(piece, &mut emit).map(String::from);
        if stop.is_some() {
            break;
        }
    }
    if stop.is_none() {
        stop = stream.finish(&mut emit).map(String::from);
    }
    (thinking, answer, stop)
}

/// Every way to cut the text into pieces of `n` bytes gives the same.
fn in_pieces(params: &Params, text: &[u8]) -> (String, String, Option<String>) {
    let whole = run(params, &[text]);
    for n in 1..=text.len().min(9) {
        assert_eq!(run(params, &text.chunks(n).collect::<Vec<_>>()), whole, "pieces of {n} bytes");
    }
    whole
}

fn stops(stop: &[&str]) -> Params {
    Params { stop: stop.iter().map(|s| s.to_string()).collect(), ..Params::default() }
}

fn thinks(starts_open: bool) -> Params {
    Params { reasoning: Some(Reasoning { starts_open, ..Reasoning::default() }), ..Params::default() }
}

#[test]
fn characters_are_never_split() {
    // 한 is ED 95 9C, 글 is EA B8 80; the family emoji is 18 bytes in five characters.
    let text = "한글 e\u{301} 👨‍👩‍👧!";
    assert_eq!(in_pieces(&Params::default(), text.as_bytes()).1, text);
    let mut stream = TextStream::new(&Params::default());
    let mut seen = Vec::new();
    for byte in "한글".bytes() {
        stream.push(&[byte], &mut |e| seen.push(e));
    }
    let text = |t: &str| Event::Text { text: t.into(), thinking: false };
    assert_eq!(seen, [text("한"), text("글")]);
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    assert_eq!(in_pieces(&Params::default(), b"a\xFFb").1, "a\u{FFFD}b");
    // An incomplete character at the end: one replacement, at the end only.
    assert_eq!(in_pieces(&Params::default(), b"ok \xED\x95").1, "ok \u{FFFD}");
    // An incomplete character cut off by another one.
    assert_eq!(in_pieces(&Params::default(), b"\xED\x95A").1, "\u{FFFD}A");
    // A surrogate in UTF-8 form, as String::from_utf8_lossy has it.
    assert_eq!(in_pieces(&Params::default(), b"\xED\xA0\x80").1, "\u{FFFD}\u{FFFD}\u{FFFD}");
}

#[test]
fn text_before_a_stop_string_is_shown_and_it_is_not() {
    let p = stops(&["</s>", "\n\nUser:"]);
    let got = |text: &str| {
        let (_, answer, stop) = in_pieces(&p, text.as_bytes());
        (answer, stop.unwrap_or_default())
    };
    assert_eq!(got("Hi there</s> more"), ("Hi there".into(), "</s>".into()));
    assert_eq!(got("one\n\nUser: two"), ("one".into(), "\n\nUser:".into()));
    assert_eq!(got("a < b </ s> </s"), ("a < b </ s> </s".into(), String::new()));
    assert_eq!(got("</</s>"), ("</".into(), "</s>".into()));
    assert_eq!(got("</s>"), (String::new(), "</s>".into()));
}

#[test]
fn stop_strings_in_other_scripts() {
    let p = stops(&["끝났다"]);
    assert_eq!(
        in_pieces(&p, "이제 끝났다.".as_bytes()),
        (String::new(), "이제 ".into(), Some("끝났다".into()))
    );
    assert_eq!(in_pieces(&p, "이제 끝났어".as_bytes()).1, "이제 끝났어");
}

#[test]
fn of_two_stop_strings_the_first_in_the_text_counts() {
    let (_, answer, stop) = run(&stops(&["world", "lo"]), &[b"hello world"]);
    assert_eq!((answer.as_str(), stop.as_deref()), ("hel", Some("lo")));
}

#[test]
fn thinking_is_told_from_the_answer() {
    let split = |open, text: &str| {
        let (thinking, answer, _) = in_pieces(&thinks(open), text.as_bytes());
        (thinking, answer)
    };
    let both = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(split(false, "<think>\nso 생각\n</think>\n\nThe answer"), both("so 생각\n", "The answer"));
    assert_eq!(split(false, "\n<think></think>Yes"), both("", "Yes"));
    assert_eq!(split(true, "\nso\n</think>\n\nYes"), both("so\n", "Yes"));
    assert_eq!(split(false, "plain < text"), both("", "plain < text"));
    // Only at the start is it a tag; later it is what the model writes about.
    assert_eq!(split(false, "Use <think> and </think>."), both("", "Use <think> and </think>."));
    assert_eq!(split(false, "<think>never ends </thin"), both("never ends </thin", ""));
    assert_eq!(split(false, " <thi"), both("", " <thi"));
}

#[test]
fn channels_tell_thinking_from_the_answer() {
    let params = Params { reasoning: Some(Reasoning::harmony()), ..Params::default() };
    let split = |text: &str| {
        let (thinking, answer, _) = in_pieces(&params, text.as_bytes());
        (thinking, answer)
    };
    let both = |thinking: &str, answer: &str| (thinking.to_owned(), answer.to_owned());
    let (analysis, answer) = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>");
    assert_eq!(
        split(&format!("{analysis}수도를 묻는다.<|end|><|start|>assistant{answer}서울입니다.")),
        both("수도를 묻는다.", "서울입니다.")
    );
    assert_eq!(split(&format!("{answer}서울")), both("", "서울"));
    assert_eq!(split(&format!("{analysis}cut off")), both("cut off", ""));
    assert_eq!(split("no channel"), both("", "no channel"));
}

#[test]
fn a_stop_string_ends_thinking_too() {
    let p = Params { stop: vec!["STOP".into()], ..thinks(false) };
    let (thinking, answer, stop) = in_pieces(&p, b"<think>abc STOP def");
    assert_eq!((thinking.as_str(), answer.as_str(), stop.as_deref()), ("abc ", "", Some("STOP")));
}
