//! librdkafka's callbacks. They run on its threads, so they only pass things on.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::status;
use super::tokens::Authentication;
use crate::deliver::classify::{delivery_error, of_connection};
use crate::ports::{Delivered, DeliveryError, Report, Signal, Signals};

/// Passes reports and errors on as signals.
pub(super) struct Context {
    signals: Signals,
    templated: bool,
    authentication: Authentication,
    /// The last error that has a cause in it. "All brokers down" and time-outs have none.
    last_trouble: Mutex<Option<(Code, String)>>,
}

impl Context {
    pub(super) fn new(signals: Signals, templated: bool, authentication: Authentication) -> Self {
        Self {
            signals,
            templated,
            authentication,
            last_trouble: Mutex::new(None),
        }
    }

    /// A failed request, with the trouble that is behind it.
    pub(super) fn explain(&self, error: &KafkaError) -> DeliveryError {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        self.with_cause(code, error.to_string())
    }

    /// Brokers answer: what went wrong before explains nothing that comes later.
    pub(super) fn forget_trouble(&self) {
        *self.last_trouble.lock() = None;
    }

    /// Mistakes of TLS and SASL are known from the trouble only, and decide on the class.
    fn with_cause(&self, code: Code, text: String) -> DeliveryError {
        match &*self.last_trouble.lock() {
            Some((cause, detail)) => delivery_error(*cause, format!("{text}: {detail}"), self.templated),
            None => delivery_error(code, text, self.templated),
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.authentication.token()
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters of it arrives as error or report, and is logged where it is handled.
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = of_connection(error.rdkafka_error_code().unwrap_or(Code::Fail), reason);
        let signal = match code {
            Code::AllBrokersDown => Signal::AllBrokersDown(self.with_cause(code, reason.to_owned())),
            Code::Fatal => Signal::Fatal(delivery_error(code, reason, self.templated)),
            _ => {
                *self.last_trouble.lock() = Some((code, reason.to_owned()));
                Signal::Trouble(delivery_error(code, reason, self.templated))
            }
        };
        self.signals.send(signal);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let result = match result {
            Ok(message) => Ok(Delivered {
                partition: message.partition(),
                offset: message.offset(),
            }),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                let error = delivery_error(code, code.to_string(), self.templated);
                // A refusal says nothing of an earlier attempt whose answer never came; librdkafka remembers.
                let outcome = status::outcome(message);
                Err(DeliveryError { outcome, ..error })
            }
        };
        let token = token as u64;
        self.signals.send(Signal::Report(Report { token, result }));
    }
}
