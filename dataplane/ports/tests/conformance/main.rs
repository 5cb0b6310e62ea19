//! One suite that each driver passes. A driver's file says how its far side is reached; `suite` asks the questions.
mod af_xdp;
mod memory;
#[path = "../netns/mod.rs"]
mod netns;
#[path = "../netns/pair.rs"]
mod pair;
mod suite;
mod tap;
