/// How far a call of [`Hub::fetch`](crate::Hub::fetch) is. The function that receives it answers whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file that is being fetched, by its path in the repository. It is empty while the hub is asked for the list of
    /// files.
    pub file: &'a str,
    /// Bytes of this file that are on the disk.
    pub file_done: u64,
    /// The length of this file.
    pub file_total: u64,
    /// Bytes of all files of this call that are on the disk. Files that the cache already had are not counted.
    pub done: u64,
    /// The length of all files that this call fetches.
    pub total: u64,
}
