//! `netd doctor`: what of this host is not as its administrator may believe.

use serde::Serialize;

use crate::api::Problem;
use crate::cli::args::DoctorArgs;
use crate::cli::output::{Failure, Output};
use crate::rpc::Client;

/// What `--json` prints.
#[derive(Serialize)]
struct Found {
    problems: Vec<Problem>,
}

pub(super) async fn doctor(
    client: &mut Client,
    output: &mut Output,
    args: &DoctorArgs,
) -> Result<(), Failure> {
    let problems = client.doctor().await;
    let problems = problems.map_err(|error| Failure::new("Failed to look at the host", &error))?;
    let any = !problems.is_empty();
    if args.json {
        output.answer(&Found { problems })?;
    } else {
        for Problem {
            check,
            problem,
            remedy,
            ..
        } in &problems
        {
            output.data(format!("{check}: {problem}\n    {remedy}\n"));
        }
        if !any {
            output.extra("No problem was found.\n");
        }
    }
    if any { Err(Failure::silent()) } else { Ok(()) }
}
