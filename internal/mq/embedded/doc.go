// Package embedded is the message queue inside the node: an mq.Driver on Pebble.
//
// It is for one machine: development, small installations, the edge. It keeps one copy of each record, on one disk, and
// belongs to the one process that holds its folder. What it promises:
//
//   - An acknowledged record is synced to disk (Durability Sync, the default): it survives the process and the machine's
//     power. With Durability Process the sync is left out and it survives the process only; after a power cut such a
//     store may even refuse to open, as its log can have holes.
//   - Readers see nothing that is not acknowledged. Offsets never go back, also when retention has deleted everything.
//   - Positions and ack maps of groups are stored and synced in the same way. A commit is checked against the ownership
//     of its partition in the order in which commits are written, so no stale one can follow that of a new owner.
//   - Memory does not depend on the data: block cache, three memtables, the queue of unsynced records, and some 200
//     bytes for each partition.
//
// # How a write goes
//
// Produce checks records and puts a request into the queue (queue.go), which answers Busy when it is full. One goroutine,
// the committer (commit.go), takes all that waits, up to 8 MiB, encodes it into one Pebble batch, commits that with one
// sync, moves the ends of the partitions, wakes their readers and answers. While it syncs, the next group gathers. All
// other changes (topics, deletions, positions) are requests too, so that nothing else ever writes.
//
// # When the disk fails
//
// Before each group the free space is asked for; below the limit records are refused with class DiskFull, certainly not
// stored, and reads and commits of positions go on. Once there is space again, so does writing.
// A write or sync that fails all the same closes the gate between Pebble and the disk (failure.go) and stops the store:
// the group at hand is answered MaybeSent, later ones are refused. Reads go on. If the cause was space (full disk,
// quota, file size limit), the log is read again and the store goes on as soon as there is room; after any other error it
// stays stopped until a restart, since a disk that failed a sync may have dropped what it had taken before.
//
// # Locks
//
// groupsMu before group.mu; life, held shared by whoever reads the database and exclusively while it is replaced, before
// topicsMu and partition.mu. The committer holds life shared and must not take it again.
package embedded
