//! What can go wrong with a device.

use std::sync::Arc;

use bft_formats::FormatError;

/// What can go wrong with a device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// Not one of the accepted words.
    #[error("device {0:?} is not known: use auto, cpu, gpu or gpu:N (bft devices lists the adapters)")]
    UnknownRequest(String),
    /// A GPU was asked for and there is none.
    #[error(
        "no GPU adapter was found through Vulkan, Metal or DX12: install a driver (on Debian, mesa-vulkan-drivers gives a software one) or use --device cpu"
    )]
    NoAdapter,
    /// `gpu:N` beyond the list.
    #[error("there is no adapter {index}: found {count} (bft devices lists them)")]
    NoSuchAdapter {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver refused to open the device.
    #[error("adapter {adapter} could not be opened: {reason}; update its driver or use --device cpu")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// The device has less memory than asked for.
    #[error(
        "the device ran out of memory at {what} ({bytes} bytes): use a smaller --batch-size or --max-length, or --checkpoint-activations on"
    )]
    OutOfMemory {
        /// The buffer.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// A buffer larger than the device binds.
    #[error(
        "{what} needs {bytes} bytes in one buffer, this device binds at most {limit}: use a smaller batch or --device cpu"
    )]
    TooLarge {
        /// The buffer.
        what: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device stopped answering.
    #[error("the GPU was lost ({0}): try again, or use --device cpu")]
    Lost(String),
    /// The driver refused a command: a bug in bft or in the driver.
    #[error("the GPU driver refused a command: {0}; this is a bug, --device cpu avoids it")]
    Refused(String),
    /// A weight's file can no longer be read.
    #[error(transparent)]
    Weights(Arc<FormatError>),
    /// Buffers and kernels do not fit together: a bug in bft.
    #[error("internal mistake: {0}")]
    Misuse(String),
}

impl From<FormatError> for DeviceError {
    fn from(error: FormatError) -> Self {
        Self::Weights(Arc::new(error))
    }
}
