//! The few devices of a PC that guests expect at fixed ports.
