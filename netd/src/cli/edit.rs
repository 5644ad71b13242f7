//! `net-edit`: a definition in the user's editor.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::cli::networks::{find, warn_of_unknown};
use crate::cli::output::{Failure, Output};
use crate::cli::pending;
use crate::rpc::Client;
use crate::rpc::procedures::NetworkRef;
use crate::rpc::xdr::STRING_MAX;

/// What to do with a text that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Edit,
    Define,
    GiveUp,
}

/// Edits the stored definition of a network.
pub(super) async fn edit(
    client: &mut Client,
    output: &mut Output,
    network: &str,
) -> Result<(), Failure> {
    let found = find(client, network).await?;
    let original = stored(client, &found).await?;
    let file = temporary(&original)?;
    let mut text = String::new();
    let mut again = Again::Edit;
    loop {
        if again == Again::Edit {
            text = match run_editor(file.path()) {
                Ok(text) => text,
                Err(failure) => return Err(keep(file, failure)),
            };
        }
        if text == original {
            output.extra(format!(
                "Network {} XML configuration not changed.\n",
                found.name
            ));
            return Ok(());
        }
        let problem = match stored(client, &found).await {
            Ok(now) if now == original || again == Again::Define => {
                match client.define(&text, false).await {
                    Ok(network) => {
                        // As with what is pending: programs get what virsh prints.
                        if std::io::stderr().is_terminal() {
                            warn_of_unknown(output, &text);
                        }
                        output.extra(format!(
                            "Network {} XML configuration edited.\n",
                            network.name
                        ));
                        pending::tell(client, output, &network).await;
                        return Ok(());
                    }
                    Err(error) => Failure::new("Failed to define the edited network", &error),
                }
            }
            Ok(_) => Failure::from("The XML configuration was changed by another user."),
            Err(failure) => failure,
        };
        again = ask(&problem);
        if again == Again::GiveUp {
            return Err(keep(file, problem));
        }
    }
}

async fn stored(client: &mut Client, network: &NetworkRef) -> Result<String, Failure> {
    let xml = client.xml(network, true).await;
    xml.map_err(|error| Failure::from(error.to_string()))
}

fn temporary(text: &str) -> Result<NamedTempFile, Failure> {
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix("netd-")
            .suffix(".xml")
            .tempfile()?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| {
        Failure::from(format!("cannot write a temporary file to edit: {error}"))
    })
}

/// Keeps what the user wrote where it can be found.
fn keep(file: NamedTempFile, failure: Failure) -> Failure {
    match file.keep() {
        Ok((_, path)) => failure.and(format!(
            "the network was not changed; your text is in {}",
            path.display()
        )),
        Err(error) => failure.and(format!(
            "the network was not changed, and your text is lost: {error}"
        )),
    }
}

/// The editor may have arguments, as in `code --wait`; no shell takes part.
fn run_editor(file: &Path) -> Result<String, Failure> {
    let set = |name| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let editor = set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let Some(program) = words.next() else {
        return Err("no editor is set; set EDITOR".into());
    };
    let status = Command::new(program).args(words).arg(file).status();
    let status = status.map_err(|error| {
        Failure::from(format!(
            "cannot run the editor {program}: {error}; set EDITOR to another"
        ))
    })?;
    if !status.success() {
        return Err(format!("the editor {editor} ended with {status}").into());
    }
    // Most editors put a new file in the place of the old one, so it is opened anew.
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| {
        Failure::from(format!(
            "cannot read the edited {}: {error}",
            file.display()
        ))
    })?;
    if text.len() > STRING_MAX {
        return Err(format!("the edited text has more than {STRING_MAX} bytes").into());
    }
    Ok(text)
}

/// Asks what to do about `problem`; without a terminal nobody answers.
fn ask(problem: &Failure) -> Again {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Again::GiveUp;
    }
    eprint!("{problem}");
    answer(&mut stdin.lock())
}

fn answer(input: &mut impl BufRead) -> Again {
    loop {
        eprint!("Try again? [y,n,f,?]: ");
        let mut line = String::new();
        match input.read_line(&mut line) {
            Ok(0) | Err(_) => return Again::GiveUp,
            Ok(_) => {}
        }
        match line.trim() {
            "y" => return Again::Edit,
            "n" => return Again::GiveUp,
            "f" => return Again::Define,
            _ => eprintln!(
                "y - yes, start the editor again\n\
                 n - no, leave the network as it is and keep your text in a file\n\
                 f - force, define it even if another user changed it meanwhile"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_y_n_and_f_are_answers() {
        assert_eq!(answer(&mut &b"y\n"[..]), Again::Edit);
        assert_eq!(answer(&mut &b"n\n"[..]), Again::GiveUp);
        assert_eq!(answer(&mut &b"?\nwhat\nf\n"[..]), Again::Define);
        assert_eq!(answer(&mut &b"what\n"[..]), Again::GiveUp);
    }
}
