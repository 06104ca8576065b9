
/// Whether the relay is to behave as this mutation has it. `scripts/mutations.sh` appends this to a copy of the relay's
/// `lib.rs`; the relay itself knows nothing of it.
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("MUTATION").ok());
    chosen.as_deref() == Some(name)
}
