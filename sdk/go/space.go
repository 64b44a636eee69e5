package sluice

import "slices"

// space counts what a publisher holds. Who finds no space waits in line. The publisher's mutex guards it.
type space struct {
	bytes, messages int // left
	line            []chan struct{}
}

// take takes space for a message; false where there is none, or others wait already.
func (s *space) take(bytes int) bool {
	if s.messages < 1 || s.bytes < bytes {
		return false
	}
	s.messages--
	s.bytes -= bytes
	return true
}

// wait joins the line; the channel is closed when it is worth trying again.
func (s *space) wait() chan struct{} {
	turn := make(chan struct{})
	s.line = append(s.line, turn)
	return turn
}

// leave gives a place in the line up; a turn that had come goes to the next.
func (s *space) leave(turn chan struct{}) {
	if i := slices.Index(s.line, turn); i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
		return
	}
	s.wakeOne()
}

// give returns the space of messages and wakes as many waiters.
func (s *space) give(bytes, messages int) {
	s.bytes += bytes
	s.messages += messages
	for range messages {
		s.wakeOne()
	}
}

func (s *space) wakeOne() {
	if len(s.line) > 0 {
		close(s.line[0])
		s.line = slices.Delete(s.line, 0, 1)
	}
}

func (s *space) wakeAll() {
	for len(s.line) > 0 {
		s.wakeOne()
	}
}
