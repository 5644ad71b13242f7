//! Taking dead flows out of the tables. The programs do it themselves, woken by a timer that lives
//! in a pinned map, so memory comes back while no agent runs. The agent only winds the timer up and
//! may ask for a sweep at once.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netd_common::abi::SWEEP_RUN;

use super::error::{DatapathError, Result, chain};
use super::handle::Datapath;
use super::programs;

/// What a classifier is run on: it needs a packet, and looks at none of it.
const PACKET: [u8; 64] = [0; 64];

impl Datapath {
    /// Set the timer, with this object's program to be called.
    pub(super) fn start_sweeping(&mut self) -> Result<()> {
        match self.call("sweep_start")? {
            0 => Ok(()),
            error => Err(DatapathError::Run {
                program: "sweep_start",
                message: format!("it returned {}", error.cast_signed()),
            }),
        }
    }

    /// Visit every slot once, and remove the flows that are dead or whose network is gone. Returns
    /// how many were removed.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn sweep_all(&mut self) -> Result<u64> {
        let mut removed = 0;
        for _ in 0..self.sweeps() {
            removed += self.sweep()?;
        }
        Ok(removed)
    }

    /// Calls of [`Self::sweep`] that visit every slot.
    #[must_use]
    pub fn sweeps(&self) -> u32 {
        self.slots.div_ceil(SWEEP_RUN)
    }

    /// Visit the slots that come next, [`SWEEP_RUN`] of each family; returns how many flows were removed.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn sweep(&mut self) -> Result<u64> {
        self.call("sweep").map(u64::from)
    }

    /// Run one of the programs that are attached to nothing.
    fn call(&mut self, name: &'static str) -> Result<u32> {
        let failed = |message: String| DatapathError::Run {
            program: name,
            message,
        };
        let program: &mut SchedClassifier =
            programs::loaded(&mut self.ebpf, &mut self.loaded, name)?
                .try_into()
                .map_err(|error| failed(chain(&error)))?;
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&PACKET),
                ..TestRunOptions::default()
            })
            .map_err(|error| failed(chain(&error)))?;
        Ok(result.return_value)
    }
}
