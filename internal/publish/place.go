package publish

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/sluice-mq/sluice/internal/mq"
)

// layout is what placement needs of a topic's partitions. It is immutable and
// placement over it is pure: the same messages land on the same partitions
// through every proxy that sees the same layout.
//
//   - An explicit partition is taken as it is.
//   - A key goes to murmur2(key) mod P, Kafka's default, so that a native client picks the same one.
//   - Un-keyed messages with sequence numbers are cut into blocks of B; block n = (sequence-1)/B of a
//     publisher goes to entry (XXH64(producer)+n) mod P of the spread order.
//   - Un-keyed messages without sequence numbers are cut into one contiguous slice per broker; slice i goes
//     to entry (XXH64(id of the first one)+i) mod P.
//   - Where that entry's partition is unhealthy, the next healthy one in the spread order takes the messages.
//     Keyed and explicit ones never move.
type layout struct {
	parts   []mq.Partition // sorted by ID
	names   []string       // as applications see them
	byName  map[string]int32
	pinned  int     // P: only the first P partitions take keyed and spread messages
	spread  []int32 // indices into parts, neighbours on different brokers
	at      []int32 // inverse of spread: partition index -> entry; -1 beyond P
	brokers int     // distinct first replicas among the first P
	healthy bool    // all of the first P are
}

// The answers of place that are not a partition.
const (
	skip       int32 = -1 // the message was settled before
	noSuch     int32 = -2 // the explicit partition does not exist
	beyond     int32 = -3 // the key's partition is pinned, but the cluster does not have it
	noneAtHand int32 = -4 // the topic has no partitions
)

// newLayout orders a topic's partitions. pinned 0 takes as many as there are.
func newLayout(parts []mq.Partition, pinned int) *layout {
	l := &layout{parts: parts, pinned: pinned, byName: make(map[string]int32, len(parts)), healthy: true}
	if l.pinned <= 0 {
		l.pinned = len(parts)
	}
	l.names = make([]string, len(parts))
	l.at = make([]int32, len(parts))
	for i := range parts {
		l.names[i] = parts[i].ID.String()
		l.byName[l.names[i]] = int32(i)
		l.at[i] = -1
	}
	l.spread, l.brokers = spreadOrder(parts[:min(l.pinned, len(parts))])
	for n, i := range l.spread {
		l.at[i] = int32(n)
		l.healthy = l.healthy && l.up(i)
	}
	return l
}

// spreadOrder deals the partitions out broker by broker, by first replica:
// each broker's first one, then each broker's second one, and so on.
func spreadOrder(parts []mq.Partition) (order []int32, brokers int) {
	byBroker := map[string][]int32{}
	var names []string
	for i := range parts {
		b := firstReplica(&parts[i])
		if _, seen := byBroker[b]; !seen {
			names = append(names, b)
		}
		byBroker[b] = append(byBroker[b], int32(i))
	}
	slices.SortFunc(names, compareBrokers)
	for round := 0; len(order) < len(parts); round++ {
		for _, b := range names {
			if round < len(byBroker[b]) {
				order = append(order, byBroker[b][round])
			}
		}
	}
	return order, len(names)
}

func firstReplica(p *mq.Partition) string {
	if len(p.Replicas) == 0 {
		return p.ID.Broker
	}
	return p.Replicas[0]
}

// compareBrokers orders broker ids as numbers where both are, else as text.
func compareBrokers(a, b string) int {
	x, errX := strconv.Atoi(a)
	y, errY := strconv.Atoi(b)
	if errX == nil && errY == nil && x != y {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(a, b)
}

// up tells whether the partition can take writes as far as is known.
func (l *layout) up(i int32) bool { return l.parts[i].Leader != "" && l.parts[i].Writable }

// place writes each message's partition index, or one of the answers above, to
// out, which is as long as msgs; entries that hold skip are left alone. Of rs it
// reads the messages' ids, made ones included. It returns how many messages
// moved because their own choice was unhealthy.
func (l *layout) place(producer string, block int, msgs []Message, rs []Result, out []int32) (moved int) {
	var base uint64
	var hashed bool
	loose, first := 0, ""
	for i := range msgs {
		m := &msgs[i]
		switch {
		case out[i] == skip:
		case m.Partition != "":
			out[i] = l.explicit(m.Partition)
		case len(l.spread) == 0:
			out[i] = noneAtHand
		case m.Key != nil:
			out[i] = l.keyed(m.Key)
		case m.Sequence == 0:
			if loose == 0 {
				first = rs[i].ID
			}
			loose++
		default:
			if !hashed {
				base, hashed = xxhash.Sum64String(producer), true
			}
			out[i] = l.entry(base+(m.Sequence-1)/uint64(max(block, 1)), &moved)
		}
	}
	if loose > 0 {
		l.cut(xxhash.Sum64String(first), loose, msgs, out, &moved)
	}
	return moved
}

// cut places the un-keyed messages without sequence numbers, loose of them, as
// contiguous slices that differ by one message at most.
func (l *layout) cut(base uint64, loose int, msgs []Message, out []int32, moved *int) {
	n := min(l.brokers, loose)
	at, slice := 0, 0
	for i := range msgs {
		m := &msgs[i]
		if out[i] == skip || m.Partition != "" || m.Key != nil || m.Sequence != 0 {
			continue
		}
		if at >= (slice+1)*loose/n {
			slice++
		}
		out[i] = l.entry(base+uint64(slice), moved)
		at++
	}
}

func (l *layout) explicit(name string) int32 {
	if i, ok := l.byName[name]; ok {
		return i
	}
	return noSuch
}

func (l *layout) keyed(key []byte) int32 {
	i := keyIndex(key, l.pinned)
	if i >= len(l.parts) {
		return beyond
	}
	return int32(i)
}

// entry is the partition at n in the spread order, or the next healthy one
// behind it; the first choice where none is healthy, for it may come back.
func (l *layout) entry(n uint64, moved *int) int32 {
	p := uint64(len(l.spread))
	choice := l.spread[n%p]
	if l.healthy || l.up(choice) {
		return choice
	}
	if next, ok := l.next(choice, ""); ok {
		*moved++
		return next
	}
	return choice
}

// next is the first healthy partition behind i in the spread order whose leader
// is not the given one.
func (l *layout) next(i int32, notOn string) (int32, bool) {
	if int(i) >= len(l.at) || l.at[i] < 0 {
		return 0, false
	}
	from, p := int(l.at[i]), len(l.spread)
	for k := 1; k < p; k++ {
		c := l.spread[(from+k)%p]
		if l.up(c) && (notOn == "" || l.parts[c].Leader != notOn) {
			return c, true
		}
	}
	return 0, false
}

// isUp is up for an index that may come from another layout of the topic.
func (l *layout) isUp(i int32) bool { return int(i) < len(l.parts) && l.up(i) }

// elsewhere is where un-keyed messages go that partition i does not take: to the
// next healthy partition on another broker, else to the next healthy one.
func (l *layout) elsewhere(i int32) (int32, bool) {
	if int(i) >= len(l.parts) {
		return 0, false
	}
	if to, ok := l.next(i, l.parts[i].Leader); ok {
		return to, true
	}
	return l.next(i, "")
}
