from workerbee.postgresql import postgres_jobset

from time import sleep

def my_job(job_id, job_data):
    print('\n\n - processing job {} with data: {}\n\n'.format(job_id, job_data))
    sleep(1)
    
postgres_jobset('texturemap_2016_08_25', my_job, 
                    job_ids=['id1', 'id2', 'id3'], 
                    job_data={ 'id1': {'some': 2, 'data': 'here'}}, 
                    host='localhost', port='5432', 
                    user='postgres', database='postgres', verbose=True)
