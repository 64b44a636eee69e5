// Package consume is the consumer proxy's engine: members, lanes, leases, retry, commit.
//
// The way of a message, file by file: group.go decides whether this node serves
// a group, and on which clusters; member.go is one membership in a broker's
// group; partition.go runs one lane (internal/lane) in one goroutine; fetch.go
// fills it, decode.go strips Sluice's headers; hub.go brings waiting sessions
// and ready lanes together; session.go leases and signs receipts; settle.go takes
// the answers; retry.go writes dead letters and parked copies; commit.go commits.
//
// # Goroutines
//
//   - a group: one supervisor, which compares what should be with what is after each
//     change of the snapshot or of the sessions;
//   - a membership: one that waits for assignments, one that commits what changed;
//   - a lane: one that owns all of its state, one that waits in Fetch, and at most two
//     that write copies.
//
// Others reach a lane by partition.call, which runs a function in the lane's
// goroutine, once for a batch of leases or answers. A call that finds the lane
// gone says so; the caller answers "reassigned".
//
// # What is not obvious
//
//   - No mutex is held over a wait. Lock order: Engine.mu, group.mu, hub.mu; a lane's
//     goroutine takes the last two for moments only.
//   - A lane says that it has something to lease before it looks for waiting sessions; a
//     session registers as waiting before it looks for lanes the last time. So neither
//     misses the other. A woken session that leaves without taking anything passes
//     the wake-up on.
//   - Commits of one membership never overlap: one that was overtaken would move the
//     position back. The final commit of a revoked partition waits its turn too.
//   - The final commit after a drain carries a flag ("clean"), so that the next owner knows that no
//     lease of the last one can still be out.
package consume
