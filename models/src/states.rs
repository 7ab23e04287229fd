//! How far the states of sequences have come, in models with delta nets.

use kinfer_core::{Batch, Error, ModelSpec, Result, Run};

/// A state has taken in all positions so far and cannot give one back: a sequence goes on where its last step ended, or begins anew.
pub(crate) struct States {
    /// Positions that each has taken in.
    computed: Vec<usize>,
}

impl States {
    /// For `states` sequences; `None`: the model's have none.
    pub fn new(spec: &ModelSpec, states: usize) -> Option<Self> {
        spec.has_states().then(|| States { computed: vec![0; states] })
    }

    /// Takes over a checked batch.
    ///
    /// # Errors
    /// [`Error::Batch`] for a state that there is not, for one of two runs, and for a run that does not go on where its state ends.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        for (i, run) in batch.runs.iter().enumerate() {
            self.check(run, &batch.runs[..i]).map_err(|problem| {
                Error::Batch(format!("run {:?} with state {}: {problem}", run.rows, run.state))
            })?;
        }
        for run in &batch.runs {
            self.computed[run.state as usize] = run.start + run.rows.len();
        }
        Ok(())
    }

    fn check(&self, run: &Run, before: &[Run]) -> Result<(), String> {
        let Some(&computed) = self.computed.get(run.state as usize) else {
            return Err(format!("this runner has {} states", self.computed.len()));
        };
        if let Some(other) = before.iter().find(|r| r.state == run.state) {
            return Err(format!("run {:?} of this step has the same one", other.rows));
        }
        match run.start {
            0 => Ok(()),
            start if start == computed => Ok(()),
            start => Err(format!(
                "it begins at position {start}, and the state ends before position {computed}; a model with such states goes on where the \
                 last step of the sequence ended, or begins at position 0"
            )),
        }
    }
}
