package mqtest

import (
	"fmt"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

var closeCases = []testCase{
	{"CloseEndsWaits", closeEndsWaits},
	{"AfterCloseAllIsClosed", afterClose},
}

func closeEndsWaits(s *suite) {
	p := s.one()
	g, err := s.d.Group(s.ctx, mq.GroupConfig{Group: s.name(), Topics: []mq.Topic{p.Topic}, Member: "mqtest"})
	if err != nil {
		s.Fatal(err)
	}
	type end struct {
		what string
		err  error
	}
	ends := make(chan end, 2)
	go func() {
		var err error
		for err == nil {
			var a mq.Assignment
			a, err = g.Next(s.ctx)
			g.Done(a.Epoch)
		}
		ends <- end{"next", err}
	}()
	go func() {
		var err error
		for err == nil {
			_, err = s.d.Reader().Fetch(s.ctx, p, 0, mq.Limits{MaxBytes: 1000, MaxWait: s.patience})
		}
		ends <- end{"fetch", err}
	}()
	if err := s.d.Close(s.ctx); err != nil {
		s.Fatal(err)
	}
	for range 2 {
		select {
		case e := <-ends:
			s.wantClass(e.what+" of a driver that is closed meanwhile", e.err, mq.Closed)
		case <-time.After(s.patience):
			s.Fatal("a wait did not end with the driver")
		}
	}
}

func afterClose(s *suite) {
	p := s.one()
	g, err := s.d.Group(s.ctx, mq.GroupConfig{Group: s.name(), Topics: []mq.Topic{p.Topic}, Member: "mqtest"})
	if err != nil {
		s.Fatal(err)
	}
	for i := range 2 {
		if err := s.d.Close(s.ctx); err != nil {
			s.Fatalf("close no. %d: %v", i+1, err)
		}
	}
	ps := []mq.PartitionID{p}
	admin := s.d.Admin()
	for what, call := range map[string]func() error{
		"partitions":  func() error { _, err := s.d.Producer().Partitions(s.ctx, p.Topic); return err },
		"produce":     func() error { return s.try(s.ctx, p, text("x"))[0].Err },
		"fetch":       func() error { _, err := s.d.Reader().Fetch(s.ctx, p, 0, mq.Limits{MaxBytes: 1}); return err },
		"offsets":     func() error { _, err := s.d.Reader().Offsets(s.ctx, ps, mq.Start{}); return err },
		"group":       func() error { _, err := s.d.Group(s.ctx, mq.GroupConfig{Group: "g"}); return err },
		"next":        func() error { _, err := g.Next(s.ctx); return err },
		"committed":   func() error { _, err := g.Committed(s.ctx, ps); return err },
		"commit":      func() error { return g.Commit(s.ctx, 1, map[mq.PartitionID]mq.Commit{p: {}})[p] },
		"group fetch": func() error { _, err := g.Fetch(s.ctx, p, 0, mq.Limits{MaxBytes: 1}); return err },
		"topics":      func() error { _, err := admin.Topics(s.ctx); return err },
		"groups":      func() error { _, err := admin.Groups(s.ctx); return err },
	} {
		s.wantClass(what+" after close", call(), mq.Closed)
	}
	for _, h := range s.d.Probe(s.ctx) {
		s.wantClass(fmt.Sprintf("probe of %s after close", h.Broker), h.Err, mq.Closed)
	}
	g.Done(1) // must not panic
}
