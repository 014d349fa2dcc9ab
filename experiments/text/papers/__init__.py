"""Papers and their summaries: data, features of sentences, labels of kept ones, rules to compare with, the tasks."""
