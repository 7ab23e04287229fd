//! `kinfer completions`: completion scripts for shells.

use crate::ctx::Ctx;
use crate::term;
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinfer completions bash > ~/.local/share/bash-completion/completions/kinfer
  kinfer completions zsh > \"${fpath[1]}/_kinfer\"
  kinfer completions fish > ~/.config/fish/completions/kinfer.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs it.
pub fn run(args: CompletionsArgs, _: &Ctx) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "kinfer", &mut script);
    Ok(term::out(&String::from_utf8(script)?)?)
}
