module github.com/sluice-mq/sluice/tools/lint

go 1.27.3
