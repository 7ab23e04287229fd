//! One answer to one prompt.

use super::stream::{self, Answer, Show};
use super::{Ready, RunArgs};
use crate::ctx::Ctx;
use crate::exit::CliError;
use crate::term;
use kinfer::{Done, Finish, Logprob, Message, Sampling, Usage};
use serde::Serialize;
use std::hash::{BuildHasher, Hasher};

/// What to answer.
pub enum Ask<'a> {
    /// Continue a text.
    Raw(&'a str),
    /// Answer a conversation.
    Chat(&'a [Message]),
}

/// Answers, streaming or as JSON.
pub fn run(ctx: &Ctx, mut ready: Ready, args: &RunArgs, ask: Ask<'_>) -> anyhow::Result<()> {
    // A seed of 32 bits survives JSON readers that know double precision only, and can be typed again.
    ready
        .params
        .sampling
        .seed
        .get_or_insert_with(|| std::hash::RandomState::new().build_hasher().finish() & u64::from(u32::MAX));
    let generation = match ask {
        Ask::Raw(text) => ready.engine.complete(text, ready.params.clone())?,
        Ask::Chat(messages) => ready.engine.chat(messages, ready.thinking, ready.params.clone())?,
    };
    let prompt_ids = generation.prompt_ids().to_vec();
    let _working = ctx.interrupt.generation(generation.cancel_token());

    let mut answer = Answer::new(ctx, if args.json { Show::Nothing } else { Show::Streams });
    for event in generation {
        match event {
            Ok(event) => answer.event(event)?,
            Err(e) => {
                answer.close()?;
                return Err(e.into());
            }
        }
    }
    answer.close()?;
    let Some(done) = &answer.done else {
        anyhow::bail!("the generation ended without saying how");
    };
    if args.json {
        term::out_line(&json(&ready, &answer, &prompt_ids, done)?)?;
    }
    ctx.detail(&stream::speeds(done, ready.engine.model().bytes_per_token()));
    ctx.detail(&format!("finish: {} ({})", done.finish.as_str(), stream::detail(&done.finish)));
    if done.finish == Finish::Cancelled {
        return Err(CliError::Interrupted.into());
    }
    Ok(())
}

/// What `--json` prints. Serialised as it is, not through `Value`, which would widen single precision.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    device: String,
    text: &'a str,
    thinking: &'a str,
    finish_reason: &'a str,
    finish_detail: String,
    usage: Usage,
    timings: Seconds,
    seed: Option<u64>,
    sampling: &'a Sampling,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    /// Of each drawn token.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Option<f32>>>,
    /// The likeliest tokens of each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Pairs>>,
}

/// `[[id, logprob], …]`.
pub type Pairs = Vec<(u32, f32)>;

#[derive(Serialize)]
struct Seconds {
    load_s: f64,
    queue_s: f64,
    prefill_s: f64,
    decode_s: f64,
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    decode_gb_per_s: Option<f64>,
}

fn json(ready: &Ready, answer: &Answer<'_>, prompt_ids: &[u32], done: &Done) -> anyhow::Result<String> {
    let model = ready.engine.model();
    let (prompt, decoded) = stream::computed(done);
    let timings = &done.timings;
    let decode_rate = stream::rate(decoded, timings.decode);
    let asked = ready.params.logprobs.is_some();
    let report = Report {
        model: model.path().display().to_string(),
        device: model.device(),
        text: &answer.text,
        thinking: &answer.thinking,
        finish_reason: done.finish.as_str(),
        finish_detail: stream::detail(&done.finish),
        usage: done.usage,
        timings: Seconds {
            load_s: ready.loaded_in.as_secs_f64(),
            queue_s: timings.queue.as_secs_f64(),
            prefill_s: timings.prefill.as_secs_f64(),
            decode_s: timings.decode.as_secs_f64(),
            prefill_tokens_per_s: stream::rate(prompt, timings.prefill),
            decode_tokens_per_s: decode_rate,
            decode_gb_per_s: decode_rate.map(|r| r * model.bytes_per_token() as f64 / 1e9),
        },
        seed: answer.seed,
        sampling: &ready.params.sampling,
        prompt_ids,
        ids: &answer.ids,
        logprobs: asked.then(|| answer.logprobs.iter().map(|l| l.logprob).collect()),
        top: asked.then(|| answer.logprobs.iter().map(|l| pairs(&l.top)).collect()),
    };
    Ok(serde_json::to_string(&report)?)
}

/// As JSON shows them.
pub fn pairs(top: &[Logprob]) -> Pairs {
    top.iter().map(|l| (l.id, l.logprob)).collect()
}
