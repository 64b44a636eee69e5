package lane

import (
	"strconv"
	"time"
)

// Action is what a client says of a lease.
type Action uint8

// The actions.
const (
	Accept Action = iota + 1
	Release
	Reject
	Renew
	Return
)

// Answer is one answer to one lease.
type Answer struct {
	Offset int64
	Serial uint64
	Action Action
	// Delay: until the message goes out again (0: the back-off), or how long the renewed lease runs from now (0: as long as it was granted for).
	Delay time.Duration
	Cause string
}

// Verdict is what became of an answer.
type Verdict uint8

// The verdicts.
const (
	OK             Verdict = iota // recorded, now or before
	AlreadySettled                // the lease was settled otherwise
	Expired                       // the lease ran out, and the answer comes too late
	Reassigned                    // the lease was called off, or the message went to somebody else since
)

// outcomeOf is how a lease ends by an action.
var outcomeOf = [...]outcome{Accept: accepted, Release: released, Reject: rejected, Return: returned, Renew: unsettled}

// Settle takes an answer.
func (l *Lane) Settle(now time.Duration, a Answer) Verdict {
	if a.Serial < l.first || a.Serial >= l.serial || a.Action < Accept || a.Action > Return {
		return Reassigned
	}
	at := l.lookup(a.Offset)
	if at == none || l.slots[at].serial != a.Serial {
		return l.late(a, l.ended.get(a.Serial))
	}
	s := &l.slots[at]
	if s.state == leased {
		l.settle(now, at, a)
		return OK
	}
	if s.last == expired && (s.state == waiting || s.state == ready) {
		return l.settleExpired(at, a)
	}
	return l.late(a, s.last)
}

// late judges an answer to a lease that is over.
func (l *Lane) late(a Answer, how outcome) Verdict {
	switch {
	case how == unsettled:
		return Expired // so old that it was forgotten
	case a.Action == Return && (how == calledOff || how == expired):
		return OK // it is back already
	case how == calledOff, how == returned && a.Action != Return:
		return Reassigned
	case how == expired && a.Action == Accept:
		return Reassigned // was leased again, or is on its way elsewhere
	case how == expired:
		return Expired
	case how == outcomeOf[a.Action]:
		return OK
	default:
		return AlreadySettled
	}
}

// settleExpired: a message whose lease ran out may still be accepted or rejected until it goes out again.
func (l *Lane) settleExpired(at int32, a Answer) Verdict {
	s := &l.slots[at]
	switch a.Action {
	case Accept:
		l.ended.put(s.serial, accepted)
		l.remove(at)
		return OK
	case Reject:
		l.ended.put(s.serial, rejected)
		s.last = rejected
		l.die(at, a.Cause)
		return OK
	case Return:
		return OK
	default:
		return Expired
	}
}

func (l *Lane) settle(now time.Duration, at int32, a Answer) {
	s := &l.slots[at]
	if a.Action == Renew {
		l.stopTimer(at)
		if a.Delay <= 0 {
			a.Delay = s.term
		}
		l.startTimer(at, now+a.Delay)
		return
	}
	l.endLease(at, outcomeOf[a.Action])
	switch a.Action {
	case Accept:
		l.remove(at)
	case Reject:
		l.die(at, a.Cause)
	case Release:
		l.takeBackBehind(at)
		l.again(now, at, a.Delay, a.Cause)
		l.rescue(now)
	case Return:
		s.attempts--
		s.serial = 0
		l.setState(s, ready)
		l.takeBackBehind(at)
		l.offerFront(at)
	case Renew:
	}
}

// Tick lets leases and back-offs end that are due.
func (l *Lane) Tick(now time.Duration) {
	for len(l.timers) > 0 && l.slots[l.timers[0]].due <= now {
		at := l.timers[0]
		if l.slots[at].state == leased {
			l.expire(now, at)
			continue
		}
		l.stopTimer(at)
		l.setState(&l.slots[at], ready)
		l.offerFront(at)
	}
	l.rescue(now)
}

// expire ends a lease that ran out. Its client is not told: a late accept still counts until the message goes out again.
// In a run it is the first one that did, and what stands behind it is taken back.
func (l *Lane) expire(now time.Duration, at int32) {
	if c := l.slots[at].chain; c != none {
		for at = l.chains[c].head; l.slots[at].state != leased || l.slots[at].due > now; at = l.slots[at].next {
		}
	}
	l.Effects.Expired++
	l.endLease(at, expired)
	l.takeBackBehind(at)
	l.again(now, at, 0, "lease ran out")
}

// again decides what follows an attempt that failed: back-off, the retry topic, or the dead letters.
func (l *Lane) again(now time.Duration, at int32, delay time.Duration, cause string) {
	s := &l.slots[at]
	p := l.policy(s)
	if int(s.attempts) >= p.MaxAttempts {
		if cause == "" {
			cause = "released " + strconv.Itoa(int(s.attempts)) + " times"
			if s.attempts == 1 {
				cause = "released at its only attempt"
			}
		}
		l.die(at, cause)
		return
	}
	if delay <= 0 {
		delay = backoff(p, int(s.attempts))
	}
	if l.parks() && delay > l.cfg.ParkAfter {
		l.park(at, delay)
		return
	}
	detach(&s.msg)
	l.wait(at, now+delay)
}

// backoff doubles from BackoffMin after the first attempt to BackoffMax.
func backoff(p Policy, attempts int) time.Duration {
	d := p.BackoffMin
	for range attempts - 1 {
		if d >= p.BackoffMax/2 {
			return p.BackoffMax
		}
		d *= 2
	}
	return min(d, p.BackoffMax)
}

func (l *Lane) parks() bool { return l.cfg.Mode == Any && l.cfg.ParkAfter > 0 && !l.stopped }

// die asks for a dead letter. The message is done once that is stored. The slot is in no queue, or at its place in a chain.
func (l *Lane) die(at int32, cause string) {
	s := &l.slots[at]
	l.withdraw(at)
	l.setState(s, dying)
	l.Effects.Dead = append(l.Effects.Dead, l.copyOf(s, cause, 0))
	l.settleChain(s.chain)
}

func (l *Lane) park(at int32, delay time.Duration) {
	s := &l.slots[at]
	l.withdraw(at)
	l.setState(s, parking)
	l.Effects.Park = append(l.Effects.Park, l.copyOf(s, "", delay))
}

func (l *Lane) copyOf(s *slot, cause string, delay time.Duration) Copy {
	if s.serial == 0 {
		s.serial = l.nextSerial()
	}
	c := Copy{Message: s.msg, Serial: s.serial, Cause: cause, Delay: delay}
	c.Attempts = int(s.attempts)
	return c
}

// Stored says that a copy was written: its message is done.
func (l *Lane) Stored(offset int64, serial uint64) {
	at := l.lookup(offset)
	if at == none || l.slots[at].serial != serial {
		return
	}
	if st := l.slots[at].state; st == dying || st == parking {
		l.remove(at)
	}
}

// Unstored says that a copy for the retry topic was not written: the message waits here. A dead letter that was
// not written stays dying: its writer tries again for as long as the lane lives.
func (l *Lane) Unstored(now time.Duration, offset int64, serial uint64, delay time.Duration) {
	at := l.lookup(offset)
	if at == none || l.slots[at].serial != serial || l.slots[at].state != parking {
		return
	}
	l.setState(&l.slots[at], ready)
	detach(&l.slots[at].msg)
	l.wait(at, now+delay)
}

// rescue parks the head where it alone blocks the window: more than 90 % used, more than 98 % of that done.
func (l *Lane) rescue(now time.Duration) {
	span := int(l.next - l.base)
	if !l.parks() || span*10 <= l.cfg.Window*9 || l.Buffered()*50 >= span {
		return
	}
	if at := l.lookup(l.base); at != none && l.slots[at].state == waiting {
		l.park(at, l.slots[at].due-now)
	}
}

// Return gives all leases of a client back, uncounted.
func (l *Lane) Return(now time.Duration, client uint64) {
	var mine []int64
	for _, at := range l.timers {
		if s := &l.slots[at]; s.state == leased && s.client == client {
			mine = append(mine, s.msg.Offset)
		}
	}
	sortOffsets(mine) // the first of a run takes the rest back
	for _, offset := range mine {
		at := l.lookup(offset)
		if s := &l.slots[at]; s.state == leased && s.client == client {
			l.settle(now, at, Answer{Offset: offset, Serial: s.serial, Action: Return})
		}
	}
}
