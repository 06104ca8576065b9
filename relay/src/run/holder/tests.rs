//! Retention gaps while the process runs, in virtual time.

use crds::RelayConfig;
use crds::relay_status::DataEvent;
use tokio::time::Instant;

use super::*;
use crate::health::Board;
use crate::metrics::Metrics;
use crate::state::ownership::Share;

const START: Micros = 1_000_000 * SECOND;
const TTL: Duration = Duration::from_secs(3_600);
const HORIZON: Micros = 180 * SECOND;

#[derive(Debug, Clone)]
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Micros {
        START + self.elapsed().as_micros() as Micros
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Scene {
    holder: Arc<SlotHolder<VirtualClock>>,
    obeyed: mpsc::Receiver<Command>,
}

impl Scene {
    fn new(on_gap: OnRetentionGap) -> Self {
        let clock = Arc::new(VirtualClock(Instant::now()));
        let share = Share::Pinned { index: 1, count: 1 };
        let board = Board::new(START);
        let metrics = Metrics::new().unwrap();
        let outlook = Outlook::new(&RelayConfig::default(), share, "p".into(), clock, board, metrics);
        let outlook = Arc::new(outlook);
        outlook.retention().begin(Some(TTL));
        let mut ledger = Ledger::default();
        for slot in slots().iter() {
            ledger.open(slot, START, []);
        }
        let (commands, obeyed) = mpsc::channel(8);
        let holder = SlotHolder {
            commands,
            control: Control::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            retention: outlook.retention(),
            outlook,
            on_gap,
            exactly_once: false,
            polls: false,
            sweep_lag: HORIZON,
            gaps: Mutex::default(),
        };
        Self {
            holder: Arc::new(holder),
            obeyed,
        }
    }

    /// Everything is read up to now, as far as the horizon allows.
    fn read(&self, slot: SlotId) {
        let swept = self.holder.outlook.source_time() - HORIZON;
        self.holder.ledger.lock().slot_mut(slot).unwrap().sweep(swept);
    }

    /// Watches for some time; only the second slot is read. What reading is told is done.
    async fn watch(&mut self, time: Duration) {
        let stop = CancellationToken::new();
        let (holder, watching) = (self.holder.clone(), stop.clone());
        let watch = tokio::spawn(async move { holder.watch(&watching).await });
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.read(slots().iter().nth(1).unwrap());
            while let Ok(command) = self.obeyed.try_recv() {
                let Command::Remove(slots, done) = command else {
                    panic!("{command:?}");
                };
                assert_eq!(slots, first());
                done.send(()).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        stop.cancel();
        watch.await.unwrap();
    }

    fn said(&self) -> Vec<String> {
        let gap = |event: &DataEvent| event.kind == DataEventKind::RetentionGap;
        let events = self.holder.outlook.board().events();
        events
            .into_iter()
            .filter(gap)
            .map(|event| event.message)
            .collect()
    }

    fn counted(&self) -> i64 {
        self.holder.outlook.shared_metrics().process.retention_gaps.get()
    }
}

fn slots() -> SlotSet {
    [SlotId::new(0), SlotId::new(1)].into_iter().flatten().collect()
}

fn first() -> SlotSet {
    SlotId::new(0).into_iter().collect()
}

fn time(micros: Micros) -> String {
    crate::health::timestamp(micros).to_string()
}

#[tokio::test(start_paused = true)]
async fn rows_that_expire_while_reading_waits_stop_their_slot() {
    let mut scene = Scene::new(OnRetentionGap::Stop);
    scene.watch(TTL).await;
    assert_eq!((scene.said(), scene.counted()), (Vec::new(), 0));
    scene.watch(Duration::from_secs(600)).await;
    let said = scene.said();
    assert_eq!((said.len(), scene.counted()), (1, 1), "{said:?}");
    assert!(
        said[0].starts_with(&format!("slots 0: rows written from {} to ", time(START))),
        "{said:?}"
    );
    let reading = scene.holder.ledger.lock().reading();
    assert_eq!(reading, slots().difference(first()), "the other slot goes on");
}

#[tokio::test(start_paused = true)]
async fn with_continue_the_gap_is_told_when_it_opens_and_when_reading_goes_on() {
    let mut scene = Scene::new(OnRetentionGap::Continue);
    scene.watch(TTL + Duration::from_secs(1_000)).await;
    assert_eq!((scene.said().len(), scene.counted()), (1, 1));
    assert_eq!(scene.holder.ledger.lock().reading(), slots());
    let lost_until = scene.holder.outlook.source_time() - TTL.as_micros() as Micros;
    scene.read(SlotId::new(0).unwrap());
    scene.watch(Duration::from_secs(5)).await;
    let said = scene.said();
    assert_eq!((said.len(), scene.counted()), (2, 1), "{said:?}");
    let written = format!("slots 0: rows written from {} to ", time(START));
    let until = said[1]
        .strip_prefix(&written)
        .and_then(|rest| rest.split(' ').next())
        .unwrap();
    let until = until.parse::<crds::Timestamp>().unwrap().milliseconds() as Micros * 1000;
    assert!(
        (lost_until - until).abs() <= 2 * SECOND,
        "{said:?}, not {}",
        time(lost_until)
    );
}

/// An `ALTER TABLE` to a retention below the horizon loses nothing as long as young cursors read in time.
#[tokio::test(start_paused = true)]
async fn a_retention_below_the_horizon_is_no_gap_while_reading_is_in_time() {
    let mut scene = Scene::new(OnRetentionGap::Stop);
    let retention = scene.holder.outlook.retention();
    retention.hear(Some(START), Some(Duration::from_secs(120)), START);
    let stop = Instant::now() + Duration::from_secs(1_000);
    while Instant::now() < stop {
        slots().iter().for_each(|slot| scene.read(slot));
        scene.watch(Duration::from_secs(2)).await;
    }
    assert_eq!((scene.said(), scene.counted()), (Vec::new(), 0));
}
