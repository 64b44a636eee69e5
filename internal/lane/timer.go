package lane

import "time"

// The timers are a binary heap of slots by due; a slot knows its place, so that it can leave from the middle.

// NextDue is when Tick has something to do, or a hold ends; false: never.
func (l *Lane) NextDue(now time.Duration) (time.Duration, bool) {
	if len(l.timers) == 0 {
		return l.hold, l.hold > now
	}
	due := l.slots[l.timers[0]].due
	if l.hold > now {
		due = min(due, l.hold)
	}
	return due, true
}

// wait puts a slot in back-off until due.
func (l *Lane) wait(at int32, due time.Duration) {
	l.setState(&l.slots[at], waiting)
	l.startTimer(at, due)
	l.settleChain(l.slots[at].chain)
}

func (l *Lane) startTimer(at int32, due time.Duration) {
	s := &l.slots[at]
	s.due, s.timer = due, int32(len(l.timers))
	l.timers = append(l.timers, at)
	l.up(len(l.timers) - 1)
}

func (l *Lane) stopTimer(at int32) {
	i := int(l.slots[at].timer)
	if i < 0 {
		return
	}
	last := len(l.timers) - 1
	l.swap(i, last)
	l.timers = l.timers[:last]
	l.slots[at].timer = none
	if i < last {
		l.up(i)
		l.down(i)
	}
}

func (l *Lane) due(i int) time.Duration { return l.slots[l.timers[i]].due }

func (l *Lane) swap(i, j int) {
	l.timers[i], l.timers[j] = l.timers[j], l.timers[i]
	l.slots[l.timers[i]].timer, l.slots[l.timers[j]].timer = int32(i), int32(j)
}

func (l *Lane) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if l.due(parent) <= l.due(i) {
			return
		}
		l.swap(i, parent)
		i = parent
	}
}

func (l *Lane) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(l.timers) {
			return
		}
		if child+1 < len(l.timers) && l.due(child+1) < l.due(child) {
			child++
		}
		if l.due(i) <= l.due(child) {
			return
		}
		l.swap(i, child)
		i = child
	}
}
