use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    downtime: Duration::from_millis(10),
    timeout: Duration::from_secs(60),
    at_timeout: AtTimeout::Cancel,
    at_minimum: true,
};

/// A guest that dirties pages of `hot` at random, and a link: rounds until a
/// decision. Answers the decision, the rounds, and what stopping then costs.
fn simulate(
    present: u64,
    hot: f64,
    dirty_rate: f64,
    page_rate: f64,
    limits: &Limits,
) -> (Decision, u32, Duration) {
    let mut forecast = Forecast::new(Duration::from_micros(500), Duration::from_micros(50));
    let mut elapsed = Duration::ZERO;
    let mut pages = as_f64(present);
    for number in 0..100_000 {
        let seconds = 50e-6 + pages / page_rate;
        let took = from_us(seconds * 1e6);
        elapsed += took;
        // So many different pages of `hot` are hit in that time.
        let remaining = hot * (1.0 - (-dirty_rate * seconds / hot).exp());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small and positive"
        )]
        let whole = |value: f64| value.round() as u64;
        let round = Round {
            number,
            pages: whole(pages),
            wire_bytes: whole(pages * 4096.0),
            elapsed: took,
            sending: took,
            remaining: whole(remaining),
            dirtied: whole(remaining),
        };
        let predicted = forecast.learn(&round);
        match forecast.decide(elapsed, limits) {
            Decision::Continue => pages = remaining,
            decision => return (decision, number + 1, predicted),
        }
    }
    panic!("no decision after {elapsed:?}");
}

#[test]
fn an_idle_guest_is_stopped_after_one_round() {
    let (decision, rounds, cost) = simulate(100_000, 10.0, 10.0, 300_000.0, &LIMITS);
    assert_eq!((decision, rounds), (Decision::Stop, 1));
    assert!(cost < Duration::from_millis(1), "{cost:?}");
}

#[test]
fn a_busy_guest_is_stopped_at_the_minimum_and_not_when_it_fits() {
    let busy = |limits| simulate(130_000, 16_384.0, 120_000.0, 300_000.0, limits);
    let (decision, rounds, least) = busy(&LIMITS);
    assert_eq!(decision, Decision::Stop);
    let (decision, fewer, first) = busy(&Limits {
        at_minimum: false,
        ..LIMITS
    });
    assert_eq!(decision, Decision::Stop);
    assert!(
        first <= LIMITS.downtime && least <= first / 3,
        "{least:?} {first:?}"
    );
    assert!(fewer < rounds && rounds < 20, "{fewer} {rounds}");
}

#[test]
fn a_guest_faster_than_the_link_stays_or_goes_when_time_is_over() {
    let fast = |at_timeout| {
        let limits = Limits {
            at_timeout,
            ..LIMITS
        };
        simulate(500_000, 400_000.0, 1e7, 300_000.0, &limits)
    };
    assert_eq!(fast(AtTimeout::Cancel).0, Decision::GiveUp);
    let (decision, _, cost) = fast(AtTimeout::Ignore);
    assert_eq!(decision, Decision::Stop);
    assert!(cost > LIMITS.downtime);
}

#[test]
fn a_limit_below_what_the_stop_itself_takes_is_told_when_memory_is_nearly_through() {
    // The simulated stop takes 550 us.
    let idle = |at_timeout| {
        let limits = Limits {
            downtime: Duration::from_micros(500),
            at_timeout,
            ..LIMITS
        };
        simulate(100_000, 10.0, 10.0, 300_000.0, &limits)
    };
    let (decision, rounds, _) = idle(AtTimeout::Cancel);
    assert_eq!(decision, Decision::OutOfReach);
    assert!(rounds < 5, "{rounds}");
    assert_eq!(idle(AtTimeout::Ignore).0, Decision::Stop);
}

#[test]
fn nothing_is_decided_before_anything_is_known() {
    let mut forecast = Forecast::new(Duration::ZERO, Duration::ZERO);
    assert_eq!(forecast.decide(Duration::ZERO, &LIMITS), Decision::Continue);
}

proptest! {
    /// Whatever guest and link: it ends, and it ends as asked.
    #[test]
    fn a_decision_comes_and_keeps_the_limit(
        present in 0_u64..1_000_000,
        hot in 1.0_f64..500_000.0,
        dirty_rate in 0.0_f64..1e6,
        page_rate in 10_000.0_f64..1e6,
        at_minimum: bool,
    ) {
        let limits = Limits { at_minimum, ..LIMITS };
        let (decision, _, cost) = simulate(present, hot, dirty_rate, page_rate, &limits);
        match decision {
            Decision::Stop => prop_assert!(cost <= limits.downtime),
            Decision::GiveUp => prop_assert!(cost > limits.downtime),
            Decision::Continue | Decision::OutOfReach => prop_assert!(false),
        }
    }

    /// Odd numbers are no panic.
    #[test]
    fn any_round_can_be_learned_from(
        numbers in any::<[u64; 4]>(),
        elapsed in any::<u32>(),
        number in any::<u32>(),
    ) {
        let mut forecast = Forecast::new(Duration::from_secs(60), Duration::ZERO);
        let round = Round {
            number,
            pages: numbers[0],
            wire_bytes: numbers[1],
            elapsed: Duration::from_micros(elapsed.into()),
            sending: Duration::from_micros(elapsed.into()),
            remaining: numbers[2],
            dirtied: numbers[3],
        };
        forecast.learn(&round);
        forecast.decide(Duration::ZERO, &LIMITS);
    }
}
