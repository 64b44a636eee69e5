package cluster

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// scope is the registerer of one driver. A driver that is opened anew takes the place of the series of the one before,
// which lives on for its grace unseen; the series of a cluster that is gone go too.
type scope struct {
	prometheus.Registerer
	mine []prometheus.Collector
}

func newScope(reg prometheus.Registerer, cluster string) *scope {
	if reg == nil {
		reg = prometheus.NewRegistry() // shown nowhere
	}
	return &scope{Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"cluster": cluster}, reg)}
}

// Register implements prometheus.Registerer. It is called while a driver is opened, by one goroutine.
func (s *scope) Register(c prometheus.Collector) error {
	err := s.Registerer.Register(c)
	if again := (prometheus.AlreadyRegisteredError{}); errors.As(err, &again) {
		s.Unregister(c) // by its descriptions, which are those of the one before
		err = s.Registerer.Register(c)
	}
	if err == nil {
		s.mine = append(s.mine, c)
	}
	return err
}

// MustRegister implements prometheus.Registerer.
func (s *scope) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := s.Register(c); err != nil {
			panic(err) // two drivers' metrics contradict each other: a defect of ours
		}
	}
}

// end takes the series back.
func (s *scope) end() {
	for _, c := range s.mine {
		s.Unregister(c)
	}
}
