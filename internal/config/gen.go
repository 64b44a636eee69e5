package config

//go:generate go test -run ^TestReferencePageIsCurrent$ -count=1 . -update
