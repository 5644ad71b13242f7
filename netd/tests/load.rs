//! The programs load, and what it costs the verifier.
use aya::programs::SchedClassifier;
use aya::{EbpfLoader, VerifierLogLevel};

#[test]
fn programs_load() {
    let level: u8 = 0;
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &level, false)
        .verifier_log_level(if std::env::var_os("VERBOSE").is_some() {
            VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS
        } else {
            VerifierLogLevel::STATS
        })
        .load(netd::datapath::OBJECT)
        .unwrap();
    let mut bad = 0;
    for (name, program) in ebpf.programs_mut() {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        match program.load() {
            Ok(()) => println!(
                "{name}: {:?} insns verified, {:?}",
                program.info().unwrap().verified_instruction_count(),
                program.info().unwrap().size_translated()
            ),
            Err(e) => {
                bad += 1;
                let t = format!("{e:?}");
                println!(
                    "{name}: {} ... {}",
                    &t[..t.len().min(200)],
                    &t[t.len().saturating_sub(9000)..]
                );
            }
        }
    }
    assert_eq!(bad, 0);
}
