//! Initialising a transactional id: its new producer is the only one.

use relay::ports::{ErrorClass, Outcome, Signals, TransactionError, TransactionalBroker, Verdict};

use super::{ModelTransactional, start};
use crate::broker::{LATEST, Late, Request, error};
use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::{MS, Micros, SECOND};

/// Initialising goes on for this long.
const LIMIT: Micros = 30 * SECOND;

/// How often of a hundred times a coordinator is a new one.
const LOADING: i64 = 25;

impl TransactionalBroker for Port {
    type Producer = ModelTransactional;

    async fn transactional(
        &self,
        id: &str,
        signals: Signals,
    ) -> Result<ModelTransactional, TransactionError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::InitialiseAsked).await;
        if world.fault(Fault::ProducerNotMade, process.seat) && world.percent(70) {
            world.count("broker: producer not made");
            return Err(TransactionError {
                verdict: Verdict::Ended,
                error: error(ErrorClass::Configuration, "ClientCreation", Outcome::NotWritten),
            });
        }
        if world.cluster.lock().knows(id) {
            let detail = format!("{} opens {id}, which was initialised before", process.name);
            world.judge(|oracle| oracle.fail("id-initialised-once", detail));
        }
        let epoch = self.initialise(id).await?;
        process.pass(Point::InitialiseAnswered).await;
        world.tell(|| format!("{} has a producer with id {id}", process.name));
        Ok(start(process, id, epoch, signals))
    }

    async fn fence(&self, id: &str) -> Result<(), TransactionError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::FenceAsked).await;
        self.initialise(id).await?;
        process.pass(Point::FenceAnswered).await;
        world.count("transactions: former owner fenced");
        world.tell(|| format!("{} has fenced {id}", process.name));
        Ok(())
    }
}

impl Port {
    async fn initialise(&self, id: &str) -> Result<u32, TransactionError> {
        let (process, world) = (&self.0, &self.0.world);
        let mut wire = Wire {
            port: self,
            id: Some(id.to_owned()),
        };
        let began = world.now();
        let away = [Fault::CoordinatorDown, Fault::BrokersDown, Fault::BrokerStall];
        loop {
            world
                .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
                .await;
            let until = away
                .iter()
                .filter_map(|fault| world.fault_until(*fault, process.seat));
            let Some(until) = until.max() else { break };
            world.count("transactions: coordinator unavailable");
            world.sleep_until(until).await;
            process.thawed().await;
            if world.now() - began > LIMIT {
                return Err(TransactionError {
                    verdict: Verdict::Again,
                    error: error(
                        ErrorClass::Transient,
                        "CoordinatorLoadInProgress",
                        Outcome::NotWritten,
                    ),
                });
            }
        }
        if world.percent(LOADING) {
            world.count("transactions: coordinator loads its log first");
            world
                .sleep(world.chance(|chance| chance.within(50 * MS, 1500 * MS)))
                .await;
        }
        wire.id = None;
        let (epoch, effects) = world.cluster.lock().initialise(id);
        if effects.aborted {
            world.count("transactions: open one ended by a fence");
        }
        world.took_effect(effects);
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
            .await;
        process.thawed().await;
        Ok(epoch)
    }
}

/// On its way, like any other request.
struct Wire<'a> {
    port: &'a Port,
    id: Option<String>,
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        let world = &self.port.0.world;
        if let Some(id) = self.id.take()
            && world.percent(50)
        {
            let due = world.now() + world.chance(|chance| chance.within(0, LATEST));
            world.cluster_later(Late {
                due,
                request: Request::Initialise(id),
            });
        }
    }
}
