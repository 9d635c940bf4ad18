/// The progress of a call of [`Hub::fetch`](crate::Hub::fetch). The function that receives it decides whether the call
/// goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file that is being fetched, by its path in the repository. It is empty while the hub is asked for the list of
    /// files.
    pub file: &'a str,
    /// Number of bytes of this file that are on the disk.
    pub file_done: u64,
    /// The length of this file in bytes.
    pub file_total: u64,
    /// Number of bytes of all files of this call that are on the disk. Files that the cache already had are not
    /// counted.
    pub done: u64,
    /// The total length in bytes of all files that this call fetches.
    pub total: u64,
}
