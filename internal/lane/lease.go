package lane

import "time"

// Request asks for messages.
type Request struct {
	Client   uint64
	Max      int
	MaxBytes int // at least one message comes, whatever its size
	For      time.Duration
	// DeadlineMs is the end of the leases by the wall clock, for the receipts.
	DeadlineMs int64
	// Policies: a bit for each policy whose messages the client takes.
	Policies uint64
}

// Lease grants what may go out now and appends it to out.
func (l *Lane) Lease(now time.Duration, r Request, out []Leased) []Leased {
	if l.paused || l.stopped || now < l.hold || r.Max <= 0 {
		return out
	}
	if l.cfg.Mode != Any {
		return l.leaseRuns(now, r, out)
	}
	from, bytes := len(out), 0
	for i := range l.cfg.Policies {
		if r.Policies>>i&1 == 0 {
			continue
		}
		for at := l.queues[i].head; at != none && len(out)-from < r.Max; at = l.queues[i].head {
			if bytes > 0 && bytes+int(l.slots[at].bytes) > r.MaxBytes {
				return out
			}
			bytes += int(l.slots[at].bytes)
			l.unqueue(at)
			out = append(out, l.grant(now, at, r, 0))
		}
	}
	return out
}

// leaseRuns takes chains from the front of the queue, the longest run of ready messages from each.
func (l *Lane) leaseRuns(now time.Duration, r Request, out []Leased) []Leased {
	if r.Policies == 0 {
		return out
	}
	from, bytes := len(out), 0
	for l.queued.head != none && len(out)-from < r.Max {
		c := l.queued.head
		at := l.chains[c].head
		if bytes > 0 && bytes+int(l.slots[at].bytes) > r.MaxBytes {
			break
		}
		l.dequeue(c)
		l.runs++
		for n := 0; n < l.cfg.Run && at != none && len(out)-from < r.Max; n++ {
			s := &l.slots[at]
			if s.state != ready || n > 0 && bytes+int(s.bytes) > r.MaxBytes {
				break
			}
			bytes += int(s.bytes)
			l.chains[c].open++
			out = append(out, l.grant(now, at, r, l.runs))
			at = s.next
		}
	}
	return out
}

// grant leases a slot that is ready and in no queue.
func (l *Lane) grant(now time.Duration, at int32, r Request, run uint64) Leased {
	s := &l.slots[at]
	l.setState(s, leased)
	s.serial = l.nextSerial()
	s.client, s.run, s.term, s.deadlineMs, s.last = r.Client, run, r.For, r.DeadlineMs, unsettled
	s.attempts++
	if int(s.attempts) > l.policy(s).MaxAttempts {
		l.Effects.Overruns++
	}
	l.startTimer(at, now+r.For)
	return s.leased()
}

func (l *Lane) nextSerial() uint64 {
	n := l.serial
	l.serial++
	return n
}

func (s *slot) leased() Leased {
	return Leased{
		Record: s.msg.Record, ID: s.msg.ID, Origin: s.msg.Origin, Offset: s.msg.Offset,
		Serial: s.serial, Run: s.run, Attempt: int(s.attempts), Policy: s.msg.Policy,
	}
}

// revoke ends a lease without its client and without an attempt; the slot is ready, in no queue.
func (l *Lane) revoke(at int32) {
	s := &l.slots[at]
	gone := s.leased()
	gone.Record, gone.ID, gone.Origin = nil, nil, nil
	l.Effects.Revoked = append(l.Effects.Revoked, Revoked{Client: s.client, Lease: gone, DeadlineMs: s.deadlineMs})
	l.endLease(at, calledOff)
	s.attempts--
	s.serial = 0
	l.setState(s, ready)
}

// endLease remembers how a lease ended, and stops its timer. The caller gives the slot its next state.
func (l *Lane) endLease(at int32, how outcome) {
	s := &l.slots[at]
	l.ended.put(s.serial, how)
	s.last = how
	l.stopTimer(at)
	l.Effects.freed(s.client)
	if s.chain != none {
		l.chains[s.chain].open--
	}
}
