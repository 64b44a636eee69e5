package lane

import (
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/mq"
)

// Mode is what a lane promises about order.
type Mode uint8

// The modes.
const (
	Any         Mode = iota // any message to any client
	ByKey                   // messages of one key one after the other; those without a key are free
	ByPartition             // all messages one after the other
)

// Policy is how messages of one logical topic are retried.
type Policy struct {
	MaxAttempts int // deliveries before the dead letters; at least 1
	BackoffMin  time.Duration
	BackoffMax  time.Duration
}

// Config is what holds for a lane. It may change while the lane runs.
type Config struct {
	Mode Mode
	// Policies by Message.Policy; a lane of a topic has one, a lane of a retry topic one per origin. 1 to 64.
	Policies []Policy
	Run      int // most messages of one run in ordered modes; at least 1
	Window   int // most offsets from the done prefix to the newest known one; at least 1
	// ParkAfter: delays above it go to the retry topic (mode Any only); 0: nothing is parked.
	ParkAfter time.Duration
	// NoMap: commits carry no map, so nothing beyond the prefix needs one.
	NoMap bool
}

// Message is a fetched message as the lane sees it. What it points to is never changed.
type Message struct {
	Offset int64
	Record *mq.Record
	ID     []byte // sluice-id, nil without one
	Origin *Origin
	// Attempts that were made already, from a parked copy.
	Attempts int
	// Due: not to be delivered before (a parked copy); 0: at once.
	Due    time.Duration
	Policy uint8
}

// Origin is where a parked copy or a dead letter came from.
type Origin struct {
	Cluster   string
	Topic     string // physical
	Partition string
	Offset    int64
}

// Leased is a message that goes out.
type Leased struct {
	Record  *mq.Record
	ID      []byte
	Origin  *Origin
	Offset  int64
	Serial  uint64
	Run     uint64 // 0: unordered
	Attempt int    // 1 for the first delivery
	Policy  uint8
}

// Copy is a message to be written elsewhere; answer with Stored or Unstored.
type Copy struct {
	Message
	Serial uint64 // names the copy in the answer
	Cause  string
	Delay  time.Duration // parked: due so much after now
}

// Revoked is a lease that ended without its client.
type Revoked struct {
	Client     uint64
	Lease      Leased // Record, ID and Origin are left out
	DeadlineMs int64  // as it was granted
}

// Freed says that a client has so many leases less.
type Freed struct {
	Client uint64
	Count  int
}

// Effects are what the caller has to do after a step.
type Effects struct {
	Dead    []Copy
	Park    []Copy
	Revoked []Revoked
	Freed   []Freed
	// Expired counts leases that ran out, Overruns deliveries beyond MaxAttempts.
	Expired, Overruns int
}

// Reset empties it and keeps its memory.
func (e *Effects) Reset() {
	clear(e.Dead) // they hold messages
	clear(e.Park)
	*e = Effects{Dead: e.Dead[:0], Park: e.Park[:0], Revoked: e.Revoked[:0], Freed: e.Freed[:0]}
}

func (e *Effects) freed(client uint64) {
	if n := len(e.Freed); n > 0 && e.Freed[n-1].Client == client {
		e.Freed[n-1].Count++
		return
	}
	e.Freed = append(e.Freed, Freed{Client: client, Count: 1})
}

type state uint8

const (
	ready state = iota
	leased
	waiting
	dying
	parking
)

// none is the nil of indexes.
const none = int32(-1)

// slot is a message that is not done.
type slot struct {
	msg        Message
	serial     uint64        // of the newest lease or copy; 0: none that counts
	term       time.Duration // what the newest lease was granted for
	client     uint64
	run        uint64
	due        time.Duration // end of the lease or of the back-off
	deadlineMs int64
	chain      int32
	prev, next int32 // in its chain, or in the queue of its policy
	timer      int32 // place in the heap
	attempts   int32 // deliveries that count
	bytes      int32
	state      state
	last       outcome // of lease serial
}

// Lane is the machine. New makes one.
type Lane struct {
	cfg Config
	// Effects of the steps since the caller's last Reset.
	Effects Effects

	// window
	base, next, passed int64
	ring               []int32 // slot by offset&mask; none: done
	slots              []slot
	free               []int32
	carried            ackmap.Map // of the owner before, relative to carriedAt
	carriedAt          int64
	version, committed uint64
	bytes              int

	// leases
	serial, first, runs uint64
	ended               endings
	timers              []int32
	open, held          [parking + 1]int // slots and their bytes by state

	// order
	queues [64]list // mode Any: ready slots by policy
	queued list     // ordered: chains that may go out
	chains []chain
	unused []int32
	keys   map[uint64]int32

	paused, stopped bool
	hold            time.Duration
}

// list is a doubly linked list of indexes.
type list struct{ head, tail int32 }

// New makes a lane that goes on at offset, where the owner before said what is
// done beyond it. firstSerial names the first lease; a caller passes a random
// number, so that no serial comes again after a restart.
func New(cfg Config, offset int64, carried ackmap.Map, firstSerial uint64) *Lane {
	firstSerial = firstSerial&(1<<59-1) + 1 // leaves room to count, and for the outcome beside it
	l := &Lane{
		cfg: cfg, base: offset, next: offset, passed: offset, carried: carried, carriedAt: offset,
		serial: firstSerial, first: firstSerial,
	}
	l.empty()
	return l
}

// empty makes the memory of the window small again.
func (l *Lane) empty() {
	l.ring = newRing(minRing)
	l.slots, l.free, l.timers = nil, nil, nil
	l.chains, l.unused = nil, nil
	l.keys = make(map[uint64]int32)
	l.queued = list{none, none}
	for i := range l.queues {
		l.queues[i] = list{none, none}
	}
}

// Configure changes what holds from now on. Leases, attempts and positions stay.
func (l *Lane) Configure(cfg Config) {
	relink := cfg.Mode != l.cfg.Mode || len(cfg.Policies) != len(l.cfg.Policies)
	l.cfg = cfg
	if relink {
		l.relink()
	}
	l.pass()
}

// Pause and its end: a paused lane leases nothing.
func (l *Lane) Pause(paused bool) { l.paused = paused }

// Hold leases nothing before that time.
func (l *Lane) Hold(until time.Duration) { l.hold = until }

// Stop ends leasing for good; answers are still taken.
func (l *Lane) Stop() { l.stopped = true }

// Open is how many messages are leased or being written elsewhere: what a drain waits for.
func (l *Lane) Open() int { return l.open[leased] + l.open[dying] + l.open[parking] }

// Leased is how many leases are out.
func (l *Lane) Leased() int { return l.open[leased] }

// Buffered is how many messages are known and not done.
func (l *Lane) Buffered() int { return len(l.slots) - len(l.free) }

// Idle is how many messages could go out, now or after their back-off.
func (l *Lane) Idle() int { return l.open[ready] + l.open[waiting] }

// Bytes is about what they take in memory.
func (l *Lane) Bytes() int { return l.bytes }

// IdleBytes is the share of those that could go out: the fetch-ahead.
func (l *Lane) IdleBytes() int { return l.held[ready] + l.held[waiting] }

// Ready tells whether a message of those policies (a bit each) may go out.
func (l *Lane) Ready(now time.Duration, policies uint64) bool {
	if l.paused || l.stopped || now < l.hold {
		return false
	}
	if l.cfg.Mode != Any {
		return l.queued.head != none && policies != 0
	}
	for i := range l.cfg.Policies {
		if policies>>i&1 == 1 && l.queues[i].head != none {
			return true
		}
	}
	return false
}

// ReadyPolicies has a bit for each policy with a message that may go out.
func (l *Lane) ReadyPolicies(now time.Duration) uint64 {
	var bits uint64
	for i := range l.cfg.Policies {
		if l.Ready(now, 1<<i) {
			bits |= 1 << i
		}
	}
	return bits
}

func (l *Lane) setState(s *slot, to state) {
	l.count(s, -1)
	s.state = to
	l.count(s, 1)
}

func (l *Lane) count(s *slot, by int) {
	l.open[s.state] += by
	l.held[s.state] += by * int(s.bytes)
}

func (l *Lane) policy(s *slot) Policy {
	if int(s.msg.Policy) < len(l.cfg.Policies) {
		return l.cfg.Policies[s.msg.Policy]
	}
	return l.cfg.Policies[0]
}
