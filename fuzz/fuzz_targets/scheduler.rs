//! Any `scheduler_config.json`: an error, or walks of finite timesteps.
#![no_main]

use dmd_scheduler::SchedulerConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<SchedulerConfig>(bytes) {
        for steps in [0, 1, 4, 50] {
            if let Ok(walk) = config.walk(steps) {
                assert!(walk.timesteps().iter().all(|t| t.is_finite()));
                let _ = walk.with_strength(0.5);
            }
        }
    }
});
