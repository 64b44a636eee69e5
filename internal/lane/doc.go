// Package lane is the state of one partition served to one group: which
// messages are known, which are leased to whom and until when, which may go out
// next, and which are done. It is a pure step machine: records, lease requests,
// answers and time go in as calls; verdicts come back, and what has to be done
// outside (dead letters and parked copies to write, leases to call off) is
// collected in Effects. It has no clock, no I/O, no goroutine; a Lane belongs to
// one goroutine of its caller (internal/consume).
//
// # What it keeps
//
//   - The window: every offset from the done prefix (base) to the newest known one
//     (next), at most Config.Window of them. An offset without a slot is done; gaps
//     of compaction and transactions never get one.
//   - A slot per message that is not done: ready, leased, waiting (back-off), dying
//     (its dead letter is being written) or parking (its copy in the retry topic is).
//     The last two count as done only once Stored says so.
//   - In ordered modes a chain per key, or one for the partition, in offset order. Only
//     the front of a chain goes out, as a run of consecutive messages to one client, and
//     nobody gets what stands behind until all of the run is answered. A release, return
//     or expiry inside a run takes the rest of it back.
//
// # What is not obvious
//
//   - A lease is named by a serial that is never used twice in a lane, and starts at
//     random: offset and attempt alone would let the receipt of a returned lease settle
//     the next one. How the newest leases ended is remembered in a ring, so that a
//     repeated answer gets the same verdict.
//   - Keys are told apart by a 64-bit hash. Two keys that share one are ordered
//     after each other for no need, never wrongly.
//   - One timer heap holds lease ends and back-off ends: a slot has only one of them.
//   - Times are durations since an origin that the caller chooses, monotonic, so that a
//     step of the wall clock ends no lease.
package lane
